// Batches from uint8 images in one pass: selected, cropped, flipped, and converted by a table for each channel. A pixel
// has 256 values, so the table holds the result of normalising each of them.
#include "kernels.h"

// Writes a row of `width` pixels, `apart` floats apart: [first, last) from the image, flipped or not, the others black.
static inline __attribute__((always_inline)) void row_of_pixels(const uint8_t *from, const float *table, float *to,
                                                                i64 width, i64 first, i64 last, int mirrored,
                                                                i64 apart) {
    float black = table[0];
    for (i64 w = 0; w < first; w++) to[w * apart] = black;
    if (mirrored)
        for (i64 w = first; w < last; w++) to[w * apart] = table[from[width - 1 - w]];
    else
        for (i64 w = first; w < last; w++) to[w * apart] = table[from[w]];
    for (i64 w = last; w < width; w++) to[w * apart] = black;
}

// images: (any, C, H, W). chosen: (N), indices. offsets: (N, 2), row and column in [0, 2 padding]; null without a crop.
// flips: (N), or null. tables: (C, 256). out: (N, C, H, W), or (N, H, W, C) where channels_last.
void look_up_pixels(const uint8_t *images, const i64 *chosen, const i64 *offsets, const uint8_t *flips,
                    const float *tables, float *out, i64 N, i64 C, i64 H, i64 W, i64 padding, int channels_last,
                    int threads) {
    i64 plane = H * W, image = C * plane, apart = channels_last ? C : 1;
    _Pragma("omp parallel for num_threads(threads) schedule(static)")
    for (i64 n = 0; n < N; n++) {
        i64 down = offsets ? offsets[2 * n] - padding : 0, right = offsets ? offsets[2 * n + 1] - padding : 0;
        int mirrored = flips && flips[n];
        // The part of the output row that lies within the image.
        i64 before = right < 0 ? -right : 0, after = right > 0 ? right : 0;
        if (before > W) before = W;
        if (after > W) after = W;
        i64 first = mirrored ? after : before, last = W - (mirrored ? before : after);
        for (i64 h = 0; h < H; h++) {
            int inside = h + down >= 0 && h + down < H;
            for (i64 c = 0; c < C; c++) {
                const uint8_t *from = images + chosen[n] * image + c * plane + (inside ? (h + down) * W + right : 0);
                float *to = out + n * image + (channels_last ? h * W * C + c : c * plane + h * W);
                const float *table = tables + 256 * c;
                if (!inside)
                    row_of_pixels(from, table, to, W, W, W, 0, apart);
                else if (apart == 1)
                    row_of_pixels(from, table, to, W, first, last, mirrored, 1);
                else
                    row_of_pixels(from, table, to, W, first, last, mirrored, apart);
            }
        }
    }
}
