#!/usr/bin/env bash
# make.sh FOLDER: the frozen runs of the installed effbench, for tests/compat/VERSION. Never made again for a version.
# VERSION: 0.1, then schemaN for each frozen schema_version N. Records hold paths: run it with a copy of effbench and a
# folder at paths that may be shown, such as /opt/effbench and /home/user.
# FOLDER: new. Pictures are copied from 0.1/photos, beside this script.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
mkdir "$1" && cd "$1"
cp -r "$here/0.1/photos" photos
small=(model=cnn 'model.channels=[4,8]' model.hidden=16 device.threads=1 trainer.log_every_n_steps=1)
made=(data=synthetic data.num_train=40 data.num_val=16 data.num_test=16 data.image_size=8 data.batch_size=8)
mixed=("${small[@]}" "${made[@]}" optimizer=adan ema=on augment=strong scheduler=constant scheduler.warmup=3 trainer.max_epochs=null)
effbench train "${small[@]}" data=image_folder data.root=photos data.image_size=8 data.batch_size=8 seed=3 \
    trainer.max_epochs=3 ema=on loss.class_weights=balanced hydra.run.dir=photos_run
effbench train "${mixed[@]}" trainer.max_steps=7 hydra.run.dir=mid_epoch
effbench train "${mixed[@]}" trainer.max_steps=12 hydra.run.dir=whole
effbench train "${small[@]}" "${made[@]}" optimizer=sgd scheduler=plateau trainer.max_epochs=2 hydra.run.dir=plateau
effbench train -m "${small[@]}" "${made[@]}" optimizer=lion,sgd trainer.max_epochs=1 hydra.sweep.dir=sweep
effbench predict photos_run photos/test --json > predictions.json
effbench eval photos_run --json > eval.json
cp whole/checkpoints/last/model.safetensors whole.safetensors
cp whole/checkpoints/last/ema.safetensors whole.ema.safetensors
rm -r whole

# since schema8: texts with classes and with labels, a table with values, a text for next-token prediction
awk 'BEGIN { srand(1); print "text,label,labels"; split("red,blue,green,grey,old,new,small,tall", w, ",")
    for (i = 0; i < 80; i++) { line = ""; for (k = 0; k < 5; k++) line = line w[1 + int(8 * rand())] " "
        print line "," (line ~ /red/ ? "warm" : "cold") "," (line ~ /red/ ? "red" : "") ";" (line ~ /old/ ? "old" : "") } }' \
    > texts.csv
awk 'BEGIN { srand(2); print "length,colour,price"; for (i = 0; i < 80; i++) { x = int(100 * rand()) / 10; c = rand() < 0.5
        print (i % 9 ? x : "") "," (c ? "red" : "blue") "," 1000 + 20 * x + 50 * c } }' > prices.csv
awk 'BEGIN { srand(3); split("a river,the bird,one tree,rain", s, ","); split("sings,falls,waits,grows", v, ",")
        for (i = 0; i < 400; i++) print s[1 + int(4 * rand())] " " v[1 + int(4 * rand())] "." }' > book.txt
quick=(device.threads=1 trainer.log_every_n_steps=1 trainer.max_epochs=2 data.batch_size=8)
net=(model=text_cnn model.dim=8 model.channels=8 'model.widths=[2,3]' data.max_length=32)
effbench train "${quick[@]}" "${net[@]}" data=text_csv data.file=texts.csv data.tokenizer=words hydra.run.dir=texts_run
effbench train "${quick[@]}" "${net[@]}" data=text_csv data.file=texts.csv data.targets=labels task=multilabel \
    data.label_column=labels hydra.run.dir=labels_run
effbench train "${quick[@]}" model=mlp 'model.hidden=[8]' data=table_csv data.file=prices.csv data.targets=values \
    task=regression data.label_column=price hydra.run.dir=prices_run
effbench train "${quick[@]}" model=gpt model.dim=16 model.depth=1 model.heads=2 data=text_file data.file=book.txt \
    data.context=16 task.length=40 trainer.max_epochs=null trainer.max_steps=20 hydra.run.dir=book_run
for run in texts labels prices book; do effbench eval "${run}_run" --json > "$run.eval.json"; done
effbench predict texts_run texts.csv --json > texts.predictions.json
effbench predict labels_run texts.csv --json > labels.predictions.json
effbench predict prices_run prices.csv --json > prices.predictions.json
find . -name curves.png -delete
