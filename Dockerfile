# One image for worker, sweep and migrate: docker build -t mailroom . && docker run mailroom worker --help
FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY mailroom mailroom
COPY alembic alembic
RUN pip install --no-cache-dir --target /app .

FROM python:3.13-slim
RUN useradd --system --no-create-home mailroom
COPY --from=build /app /app
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1
USER mailroom
ENTRYPOINT ["python", "-m", "mailroom"]
CMD ["worker", "--concurrency", "4"]
