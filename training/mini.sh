#!/bin/sh
# Makes the mini model from nothing, on two CPU cores that do nothing else in about two hours.
set -e
python training/pretrain.py data --clips 4000
python training/pretrain.py codec --steps 1  # the principal components alone: 100 steps of the refiner gained nothing
python training/pretrain.py base --steps 3500 --threads 1
python training/puppets.py --output build/mini/puppets --clips 4096 --frames 33 --calm 9 --motions demo/dataset --real 0.15
train() {
    python training/train.py --config mini_cpu \
        --set data.dataset=build/mini/puppets --set data.spans=5 --set data.held_out=24 \
        --set data.drop_pose=0 --set data.drop_reference=0 \
        --set data.augmentation.scale=0 --set data.augmentation.shift=0 \
        --set data.augmentation.limbs=0.02 --set data.augmentation.drop_joint=0.01 \
        --set cluster.workers=2 --set engine.compile=true --set record.measure=1000 "$@"
}
train --set output=build/training/base --set steps=7400
train --set data.adapter=cond --set output=build/training/cond --set adapter.start=build/training/base/adapters/base \
    --set steps=800 --set optimizer.learning_rate=1e-3
python training/bundle.py --adapters build/training/base/adapters/base build/training/cond/adapters/cond \
    --runs build/training/base build/training/cond
