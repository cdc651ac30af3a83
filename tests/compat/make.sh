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
find . -name curves.png -delete
