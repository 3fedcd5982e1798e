# Hanlin in a container: CPU by default, CUDA with --build-arg TORCH=cu128 (a folder of download.pytorch.org/whl).
#   docker build -t hanlin . && docker run --rm hanlin doctor
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH=cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl
ARG EXTRAS=parquet,zstd,sentencepiece
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
COPY constraints.txt ./
# torch first, and alone in its layer: it is most of the image, and changes least
RUN python -m venv /opt/hanlin \
    && /opt/hanlin/bin/pip install --index-url "${TORCH_INDEX}/${TORCH}" "$(grep '^torch==' constraints.txt)"
COPY pyproject.toml setup.py README.md LICENSE llms.txt SKILL.md ./
COPY docs docs
COPY recipes recipes
COPY src src
RUN /opt/hanlin/bin/pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm
# libgomp1 is what the wheel of llama.cpp expects of the system; its version is that of the base image's release
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home hanlin && install --directory --owner=hanlin /data
COPY --from=build /opt/hanlin /opt/hanlin
COPY recipes /opt/hanlin/recipes
ENV PATH=/opt/hanlin/bin:$PATH LANG=C.UTF-8 PYTHONUNBUFFERED=1 \
    HANLIN_HOME=/data HF_HOME=/data/cache/huggingface MODELSCOPE_CACHE=/data/cache/modelscope
USER 10001
WORKDIR /data
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["hanlin"]
CMD ["--help"]
