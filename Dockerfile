# One image for worker, sweep, window and migrate: docker build -t mailroom . && docker run --init mailroom worker --help
FROM python:3.13-slim AS build
COPY requirements-run.lock .
RUN pip install --no-cache-dir --require-hashes --target /app -r requirements-run.lock
COPY mailroom /app/mailroom
COPY alembic /app/mailroom/alembic
# Its version, which --version, the window and the metrics tell: what is copied is not installed.
COPY pyproject.toml .
RUN python -c "import pathlib, tomllib; version = tomllib.loads(pathlib.Path('pyproject.toml').read_text())['project']['version']; info = pathlib.Path('/app', f'mailroom-{version}.dist-info'); info.mkdir(); (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: mailroom\nVersion: {version}\n')"

FROM python:3.13-slim
RUN useradd --system --no-create-home mailroom
COPY --from=build /app /app
ENV PYTHONPATH=/app PYTHONUNBUFFERED=1
USER mailroom
# Blocked until mailroom hears them: PID 1 would lose a signal that comes while Python starts.
ENTRYPOINT ["env", "--block-signal=HUP,INT,QUIT,TERM", "python", "-m", "mailroom"]
CMD ["worker", "--concurrency", "4"]
