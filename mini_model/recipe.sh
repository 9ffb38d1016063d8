#!/bin/sh
# Makes the mini model from nothing; by the sum of its stages in about five hours, on two CPU cores that do nothing else.
# The bundled adapters were trained with Muon for LoRA's matrices, by an earlier version; training now has AdamW alone.
set -e
puppets() {
    python mini_model/draw_dataset.py --frames 33 --calm 9 --motions demo/dataset --real 0.15 "$@"
}
train() {
    python training/train.py --config mini_cpu \
        --set data.model=build/mini/base --set data.dataset=build/mini/puppets --set data.spans=5 --set data.validation_clips=24 \
        --set data.drop_pose=0 --set data.drop_reference=0 \
        --set data.augmentation.scale=0 --set data.augmentation.shift=0 \
        --set data.augmentation.limbs=0.02 --set data.augmentation.drop_joint=0.01 \
        --set cluster.max_workers=2 --set engine.compile=true --set record.validate_every=1000 "$@"
}
train_faster() {
    train --set engine.precision=bfloat16 --set data.batch_size=8 "$@"
}
python mini_model/pretrain.py data --clips 4000
python mini_model/pretrain.py codec --steps 1  # the principal components alone: 100 steps of the refiner gained nothing
python mini_model/pretrain.py base --steps 3500 --threads 1
puppets --output build/mini/puppets --clips 4096
train --set output=build/training/first --set steps=7400
train_faster --set output=build/training/second --set adapter.start=build/training/first/adapters/base --set steps=10000
puppets --output build/mini/puppets --clips 12288
train_faster --set output=build/training/third --set adapter.start=build/training/second/adapters/base --set steps=7000
train_faster --set output=build/training/fourth --set adapter.start=build/training/third/adapters/base --set steps=4500 \
    --set optimizer.learning_rate=1.5e-3
puppets --output build/mini/leaving --away 0.12 --clips 12288
train_last() {
    train_faster --set data.dataset=build/mini/leaving "$@"
}
train_last --set output=build/training/base --set adapter.start=build/training/fourth/adapters/base --set steps=8000 \
    --set optimizer.learning_rate=1.5e-3
train_last --set data.adapter=cond --set output=build/training/cond --set adapter.start=build/training/base/adapters/base \
    --set steps=600 --set optimizer.learning_rate=1e-3
python mini_model/bundle.py --adapters build/training/base/adapters/base build/training/cond/adapters/cond \
    --runs build/training/first build/training/second build/training/third build/training/fourth build/training/base \
    build/training/cond
