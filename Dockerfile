# docker build -t wmtp . && docker run --rm -it -v "$PWD/storage:/app/storage" wmtp demo
# With a GPU: docker run --gpus all … ; `wmtp doctor` says what the container may use, and how well it confines programs.
FROM python:3.12-slim
RUN pip install --no-cache-dir uv
ENV UV_LINK_MODE=copy UV_NO_CACHE=1
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY src src
RUN uv sync --no-dev --extra mlflow --extra plots
VOLUME /app/storage
ENTRYPOINT ["uv", "run", "--no-sync", "wmtp"]
CMD ["demo"]
