# The suite in a container, with the CPU build of torch: docs/installation.md.
#   docker build -t qdit . && docker run -v "$PWD/results:/qdit/results" qdit
# For GPUs build with --build-arg CPU= and run with --gpus all.
FROM python:3.11-slim
ARG CPU=1
RUN apt-get update && apt-get install --yes --no-install-recommends g++ git make && rm -rf /var/lib/apt/lists/*
WORKDIR /qdit
COPY . .
RUN make install CPU=$CPU
CMD ["make", "reproduce"]
