"""What makes the bundled mini model, in the order of `recipe.sh`.

- `puppets/`: drawn people, their motions and scenes;
- `pretrain.py`: the command line of the base, with `clips.py` (its data), `codec.py` (the VAE), `base.py` (the
  transformer) and `loop.py` (the training loop of both);
- `draw_dataset.py` and `puppet_clips.py`: a dataset of puppets for the adapters, which `training/train.py` trains;
- `bundle.py`: the model folder that lies in the package.

`page_samples.py` draws the samples of the web page, apart from the recipe.
"""
