#!/bin/sh
# Makes the mini model from nothing, on two CPU cores that do nothing else in about two hours.
set -e
python training/pretrain.py data --clips 8000
python training/pretrain.py codec --steps 1  # the principal components alone: 100 steps of the refiner gained nothing
python training/pretrain.py base --steps 4000 --minutes 40
python training/puppets.py --output build/mini/puppets --clips 2560 --frames 33 --motions demo/dataset --real 0.15
train() {
    python training/train.py --config mini_cpu \
        --set data.dataset=build/mini/puppets --set data.model=build/mini/base --set data.batch_size=12 \
        --set data.held_out=24 --set noise.shift=2.0 --set noise.deviation=1.3 --set record.checkpoint=100 "$@"
}
train --set data.adapter=base --set output=build/training/base --set steps=1150
train --set data.adapter=cond --set output=build/training/cond --set steps=480 \
    --set adapter.start=build/training/base/adapters/base \
    --set optimizer.learning_rate=5e-4 --set optimizer.warm_up_steps=30
python training/bundle.py --adapters build/training/base/adapters/base build/training/cond/adapters/cond
