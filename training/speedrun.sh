#!/bin/sh
# From raw video to a video of one's own in one go: curates a dataset, trains both adapters of a model on it, and makes a
# sample video with them. As it stands it is for Wan2.1-I2V-14B at 480p on one rented machine with 8 GPUs of 80 GB:
#
#     INPUT=s3://raw/videos OUTPUT=/data/run sh training/speedrun.sh
#
# First it prints what each part takes by the library's own estimates; with DRY_RUN=1 it ends there. Run it again after
# Ctrl-C or a lost machine, with the same settings: each part goes on where it stopped, and what is finished stays.
# A test runs it whole on a CPU with the bundled mini model (tests/training/test_speedrun.py); on GPUs it was not run.
set -e
trap 'exit 130' INT TERM # a training that Ctrl-C ends, with a checkpoint, ends well: the next part must not begin

INPUT=${INPUT:?is the folder or bucket of raw video, such as s3://raw/videos}
OUTPUT=${OUTPUT:-speedrun}                              # a folder of this machine, for all that is made
MODEL=${MODEL:-Wan-AI/Wan2.1-I2V-14B-480P-Diffusers}    # a folder, or a repository of the Hugging Face hub
CONFIG=${CONFIG:-wan14b_480p}                           # the training to start from, see training/config.py
STEPS=${STEPS:-1500}                                    # of each adapter; here 9,000 clips
IMAGE=${IMAGE:-serving/page/samples/person.jpg}         # the sample video's person,
VIDEO=${VIDEO:-serving/page/samples/dance.mp4}          # and who it moves as

# Further options of the three programs. Networks of curation share the GPUs two by two, and captions come from a model.
CURATE=${CURATE---poses dwpose --gpu-share 0.5 --captioner Qwen/Qwen2.5-VL-7B-Instruct}
# Six GPUs train, on a clip each; one encodes ahead of them, and one makes the samples.
TRAIN=${TRAIN---cluster.max_workers 6 --data.batch_size 6}
# All eight GPUs make each segment together. The model describes the picture itself.
GENERATE=${GENERATE---size 480 832 --devices 8 --captioner Qwen/Qwen2.5-VL-7B-Instruct}

curate() {
    python pipeline/curate.py --input "$INPUT" --output "$OUTPUT/dataset" $CURATE "$@"
}
train() { # adapter, further options
    adapter=$1
    shift
    python training/train.py "$CONFIG" --steps "$STEPS" --data.dataset "$OUTPUT/dataset" --data.model "$MODEL" \
        --data.adapter "$adapter" --output "$OUTPUT/training/$adapter" $TRAIN "$@"
}
generate() { # model, further options
    model=$1
    shift
    posegen generate --model "$model" --image "$IMAGE" --video "$VIDEO" --output "$OUTPUT/sample.mp4" $GENERATE "$@"
}

echo "== What curation takes"
curate --dry-run
echo "== What the base adapter's training takes, and that of the bridges' adapter once more"
train base --dry_run
echo "== What the sample video takes"
generate "$MODEL" --dry-run
test -z "$DRY_RUN" || exit 0

echo "== 1 of 4: curation"
curate

echo "== 2 of 4: the base adapter, which makes segments"
train base

echo "== 3 of 4: the bridges' adapter, which begins as the base's"
train cond --adapter.start "$OUTPUT/training/base/adapters/base"

echo "== 4 of 4: a sample video"
# The model's folder with the new adapters, by links: its weights lie on the disk once.
folder=$(python -c "import sys
from posegen.model.folder import model_folder
print(model_folder(sys.argv[1]).resolve())" "$MODEL")
rm -rf "$OUTPUT/model"
cp -rs "$folder" "$OUTPUT/model"
rm -rf "$OUTPUT/model/adapters"
mkdir "$OUTPUT/model/adapters"
for adapter in base cond; do
    cp -r "$OUTPUT/training/$adapter/adapters/$adapter" "$OUTPUT/model/adapters/$adapter"
done
generate "$OUTPUT/model" --store "$OUTPUT/segments"
echo "dataset: $OUTPUT/dataset/report.html, model: $OUTPUT/model, sample: $OUTPUT/sample.mp4"
