# The image of every process of this project: Prefect, the package and the flows, run by an
# unprivileged user. From the repository root: docker build -t prefect-wix .
FROM python:3.12-slim AS wheel
WORKDIR /build
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY src src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir dist .

FROM python:3.12-slim
ENV PYTHONUNBUFFERED=1 PREFECT_SERVER_ANALYTICS_ENABLED=false
WORKDIR /project
COPY constraints.txt ./
COPY --from=wheel /build/dist dist
RUN pip install --no-cache-dir -c constraints.txt "$(ls dist/*.whl)[duckdb,report]" && rm -r dist
COPY flows flows
COPY blocks blocks
COPY deployments deployments
RUN useradd --create-home wix && mkdir /data && chown wix /data
USER wix
CMD ["prefect", "worker", "start", "--pool", "wix", "--type", "process"]
