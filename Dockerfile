# The server of docs/serving.md in a container: it only sets the environment. Weights are mounted, never copied in.
#   docker build -t dalle-jax --build-arg EXTRAS=serve,cuda13 .
#   docker run -p 8000:8000 -v ./runs:/runs:ro -v ./keys.txt:/keys.txt:ro dalle-jax --model /runs/demo --keys /keys.txt
FROM python:3.12-slim
ARG EXTRAS=serve
WORKDIR /dalle_jax
COPY setup.py pyproject.toml README.md LICENSE constraints.txt ./
COPY configs ./configs
COPY dalle_jax ./dalle_jax
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && useradd --uid 1000 server && mkdir /compiled && chown server /compiled
USER server
VOLUME /compiled
EXPOSE 8000
# SIGTERM finishes accepted requests, so give the container longer than --grace to stop
ENTRYPOINT ["python", "-m", "dalle_jax", "serve", "--host", "0.0.0.0", "--port", "8000", "--compiled", "/compiled"]
CMD ["--help"]
