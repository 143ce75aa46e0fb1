# CUDA image; torch's wheels bring their own CUDA libraries, so only the driver is needed outside.
#   docker build -f docker/cuda.Dockerfile -t facetrain:cuda .
# Eight GPUs of one machine:
#   docker run --rm --gpus all --ipc host -v /data:/data -v "$PWD/runs:/facetrain/runs" facetrain:cuda \
#     --nproc-per-node 8 -m facetrain run /data/recipe.yaml --out /facetrain/runs/first
FROM nvidia/cuda:13.0.1-base-ubuntu24.04
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv gcc \
    python3-dev && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/facetrain
ENV PATH=/opt/facetrain/bin:$PATH
# First what pyproject.toml asks for, a layer that a change of the code leaves as it is.
COPY pyproject.toml setup.py README.md LICENSE /src/
COPY facetrain/__init__.py /src/facetrain/
RUN pip install --no-cache-dir '/src[onnx]' && pip uninstall --yes facetrain
COPY . /src
RUN pip install --no-cache-dir --no-deps /src && rm -r /src
RUN useradd --create-home facetrain
USER facetrain
WORKDIR /facetrain
ENTRYPOINT ["torchrun"]
