# CPU image; build from the project root:
#   docker build -f docker/cpu.Dockerfile -t facetrain:cpu .
# Run the demo, its output left in ./demo:
#   docker run --rm -v "$PWD/demo:/facetrain/demo" facetrain:cpu demo --out /facetrain/demo
FROM python:3.12-slim
COPY docker/requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir -r /tmp/requirements.txt
COPY . /src
RUN pip install --no-cache-dir --no-deps /src && rm -r /src
RUN useradd --create-home facetrain
USER facetrain
WORKDIR /facetrain
ENTRYPOINT ["facetrain"]
