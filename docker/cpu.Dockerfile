# CPU image; build from the project root:
#   docker build -f docker/cpu.Dockerfile -t facetrain:cpu .
# Run the demo, its output left in ./demo:
#   docker run --rm -v "$PWD/demo:/facetrain/demo" facetrain:cpu demo --out /facetrain/demo
FROM python:3.12-slim
# First what pyproject.toml asks for, a layer that a change of the code leaves as it is.
COPY pyproject.toml setup.py README.md LICENSE /src/
COPY facetrain/__init__.py /src/facetrain/
RUN pip install --no-cache-dir '/src[onnx]' && pip uninstall --yes facetrain
COPY . /src
RUN pip install --no-cache-dir --no-deps /src && rm -r /src
RUN useradd --create-home facetrain
USER facetrain
WORKDIR /facetrain
ENTRYPOINT ["facetrain"]
