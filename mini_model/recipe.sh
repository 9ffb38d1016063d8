#!/bin/sh
# Makes the mini model from nothing; by the sum of its stages in about ten hours, on two CPU cores that do nothing else.
# The bundled adapters' LoRA was trained with Muon, by an earlier version; training/train.py now has AdamW alone.
set -e
puppets() {
    python mini_model/draw_dataset.py --frames 33 --calm 9 --motions demo/dataset --real 0.15 "$@"
}
train() {
    python training/train.py mini_cpu \
        --data.model build/mini/base --data.dataset build/mini/puppets --data.spans 5 --data.validation_clips 24 \
        --data.drop_pose 0 --data.drop_reference 0 \
        --data.augmentation.scale 0 --data.augmentation.shift 0 \
        --data.augmentation.limbs 0.02 --data.augmentation.drop_joint 0.01 \
        --cluster.max_workers 2 --engine.compile --record.validate_every 1000 "$@"
}
train_faster() {
    train --engine.precision bfloat16 --data.batch_size 8 "$@"
}
python mini_model/pretrain.py data --clips 4000
python mini_model/pretrain.py codec
python mini_model/pretrain.py base --steps 3500 --threads 1
puppets --output build/mini/puppets --clips 4096
train --output build/training/first --steps 7400
train_faster --output build/training/second --adapter.start build/training/first/adapters/base --steps 10000
puppets --output build/mini/puppets --clips 12288
train_faster --output build/training/third --adapter.start build/training/second/adapters/base --steps 7000
train_faster --output build/training/fourth --adapter.start build/training/third/adapters/base --steps 4500 \
    --optimizer.learning_rate 1.5e-3
puppets --output build/mini/leaving --away 0.12 --clips 12288
train_faster --data.dataset build/mini/leaving --output build/training/base \
    --adapter.start build/training/fourth/adapters/base --steps 8000 --optimizer.learning_rate 1.5e-3
# Half of the clips that items come from are a part of a long motion, whose picture shows the person some way off; what is
# bundled had these in its last two stages alone.
python mini_model/pretrain.py items --clips 7600
# What is bundled had steps 1 to 300 at a learning rate that fell as for 900 steps, and wrong targets in a few steps
# before the 420th, at a twelfth of the learning rate: its codec's file was written anew under it. Its further steps
# were three in ten, at noise levels from 0.55 to 0.95, and it went on from this stage at half the rank.
python mini_model/pretrain.py adapter --adapter base --start build/training/base/adapters/base --steps 480
mkdir -p build/mini/long
ln -sfn ../items build/mini/long/items
# What is bundled had its learning rate fall by the clock, in three parts: to 1,500 steps, from the peak again to 6,500,
# and from 1e-3 to the end, with the further items in the last part only. Its cond adapter began at 7,500 steps of base.
python mini_model/pretrain.py items --clips 9600
python mini_model/pretrain.py adapter --folder build/mini/long --adapter base --start build/mini/adapters/base \
    --steps 8758 --learning-rate 2.5e-3 --rollouts 0.4 --validate-every 250 --threads 1
python mini_model/pretrain.py adapter --folder build/mini/long --adapter cond --start build/mini/long/adapters/base \
    --steps 1829 --learning-rate 2e-3 --rollouts 0.4 --validate-every 250 --threads 1
mkdir -p build/mini/longer
ln -sfn ../items build/mini/longer/items
# What is bundled had its learning rate fall by the clock. Bridges are given what the base adapter makes from here on; of
# what is bundled both ends were of one segment, in use and in this command they are of two.
python mini_model/pretrain.py items --clips 14100
python mini_model/pretrain.py adapter --folder build/mini/longer --adapter base --start build/mini/long/adapters/base \
    --steps 5002 --learning-rate 2.5e-3 --rollouts 0.4 --validate-every 250 --threads 1
python mini_model/pretrain.py items --folder build/mini/three --frames 22 --clips 7000
python mini_model/pretrain.py adapter --folder build/mini/three --adapter cond --start build/mini/long/adapters/cond \
    --neighbours build/mini/long/adapters/base \
    --steps 1742 --learning-rate 2e-3 --rollouts 0.4 --validate-every 200 --threads 1
# What is bundled had its items here from seeds 60,000 and 80,000 on, and came in two parts, each with its learning rate
# falling by the clock: base in 655 and 2,012 steps, cond in 180 and 314, between what the first and the last base makes.
python mini_model/pretrain.py items --folder build/mini/far --clips 5000
torchrun --nproc-per-node 2 -- mini_model/pretrain.py adapter --folder build/mini/far --adapter base \
    --start build/mini/longer/adapters/base --batch 12 \
    --steps 2667 --learning-rate 2e-3 --rollouts 0.3 --validate-every 400 --threads 1
python mini_model/pretrain.py items --folder build/mini/between --frames 22 --clips 1400
torchrun --nproc-per-node 2 -- mini_model/pretrain.py adapter --folder build/mini/between --adapter cond \
    --start build/mini/three/adapters/cond --neighbours build/mini/far/adapters/base --batch 12 \
    --steps 494 --learning-rate 1.2e-3 --rollouts 0.3 --validate-every 200 --threads 1
python mini_model/bundle.py --adapters build/mini/far/adapters/base build/mini/between/adapters/cond \
    --runs build/training/first build/training/second build/training/third build/training/fourth build/training/base
