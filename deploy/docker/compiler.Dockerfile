# Google's Edge TPU compiler alone, for workers that run outside containers on machines where it cannot be installed (x86-64 only):
#   docker build -t edgetpu-compiler -f deploy/docker/compiler.Dockerfile deploy/docker
#   REEF_EDGETPU_COMPILER='docker run --rm --init --network none --user {uid}:{gid} -v {dir}:{dir} -w {dir} edgetpu-compiler'
# --init passes on the signal that ends a run at its limit; {dir}, {uid} and {gid} are filled in by the worker.
# The compiler is closed and comes from Coral's own repository under Coral's terms: build the image for yourself, do not pass it on.
FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates curl gnupg \
  && curl -fsSL https://packages.cloud.google.com/apt/doc/apt-key.gpg | gpg --dearmor -o /usr/share/keyrings/coral-edgetpu.gpg \
  && echo 'deb [arch=amd64 signed-by=/usr/share/keyrings/coral-edgetpu.gpg] https://packages.cloud.google.com/apt coral-edgetpu-stable main' > /etc/apt/sources.list.d/coral-edgetpu.list \
  && apt-get update && apt-get install -y --no-install-recommends edgetpu-compiler \
  && apt-get purge -y --auto-remove curl gnupg && rm -rf /var/lib/apt/lists/*
USER nobody
ENTRYPOINT ["edgetpu_compiler"]
