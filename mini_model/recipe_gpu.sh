#!/bin/sh
# Makes a larger mini model from nothing in one sitting of ten minutes, on a machine with one large GPU and 16 CPU cores:
# videos of 128x192, segments of 17 frames, a network of 320 channels and 8 blocks (about 14 M weights) trained in full.
#     sh mini_model/recipe_gpu.sh build/mini_gpu
# What is set here can be set from outside, as the tests do: SIZE="32 48" MINUTES=0.2 DEVICE=cpu ... sh ...
set -e
folder=${1:-build/mini_gpu}
SIZE=${SIZE:-128 192} FRAMES=${FRAMES:-17} HEAD=${HEAD:-5} TAIL=${TAIL:-4} HEADS=${HEADS:-10} LAYERS=${LAYERS:-8}
CLIPS=${CLIPS:-2000} ITEMS=${ITEMS:-6000} BATCH=${BATCH:-64}
DEVICE=${DEVICE:-cuda} PROCESSES=${PROCESSES:-14} MINUTES=${MINUTES:-7.5}
share() { # so many hundredths of the minutes
    awk "BEGIN { print $MINUTES * $1 / 100 }"
}
train() { # stage, hundredths of the minutes, its own settings
    stage=$1 minutes=$(share "$2")
    shift 2
    python mini_model/pretrain.py "$stage" --folder "$folder" --device "$DEVICE" --batch "$BATCH" --steps 1000000 \
        --finish-minutes "$minutes" --validate-every 500 --no-compile "$@"
}
python mini_model/pretrain.py data --folder "$folder" --clips "$CLIPS" --size $SIZE --threads "$PROCESSES"
python mini_model/pretrain.py codec --folder "$folder" --threads "$PROCESSES"
python mini_model/pretrain.py items --folder "$folder" --clips "$ITEMS" --size $SIZE --frames "$FRAMES" \
    --threads "$PROCESSES" &
items=$!
train base 20 --frames "$FRAMES" --heads "$HEADS" --layers "$LAYERS"
wait "$items"
train adapter 60 --adapter base --model "$folder/base"
train adapter 20 --adapter cond --model "$folder/base" --start "$folder/adapters/base" \
    --head "$HEAD" --tail "$TAIL"
python mini_model/bundle.py --base "$folder/base" --adapters "$folder/adapters/base" "$folder/adapters/cond" --runs \
    --output "$folder/model" --commands mini_model/recipe_gpu.sh --device "$DEVICE" \
    --looks "How its videos look has not been judged yet." \
    --segment-frames "$FRAMES" --head "$HEAD" --tail "$TAIL" --size $SIZE --num-inference-steps 4
