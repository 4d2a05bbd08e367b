"""autoperm against rebasin 0.0.47 and Torch-Pruning 1.6.1 on the classification models of torchvision.

    pip install --no-deps --target FOLDER rebasin==0.0.47 torchview==0.2.6 graphviz tqdm torch-pruning==1.6.1
    PYTHONPATH=FOLDER python -m benchmarks.zoo peers

Each tool gets the same two models (random initialisations with trained-like norms and biases) and the same images, of the size
that the model is for, in a process of its own. Model b is permuted, and its outputs before and after are compared in float64.
"""
