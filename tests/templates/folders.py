"""Folders of templates for tests."""

from pathlib import Path

GOOD = {
    "subject.txt": "Welcome",
    "text.txt": "Hello {{login_text}}: https://x.example/{{secret}}",
    "html.html": "<p>Hello {{login}}: <a href='https://x.example/{{secret}}'>here</a></p>",
}
GERMAN = {
    "subject.txt": "Willkommen",
    "text.txt": "Hallo {{login_text}}: https://x.example/{{secret}}",
    "html.html": "<p>Hallo {{login}}: <a href='https://x.example/{{secret}}'>hier</a></p>",
}
FRENCH = {
    "subject.txt": "Bienvenue",
    "text.txt": "Bonjour {{login_text}} : https://x.example/{{secret}}",
    "html.html": "<p>Bonjour {{login}} : <a href='https://x.example/{{secret}}'>ici</a></p>",
}


def write(folder: Path, files: dict[str, str], *, settings: str = 'default_language = "en"\n') -> Path:
    """Write files, by their paths; return the folder."""
    for path, content in {"templates.toml": settings, **files}.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder


def languages(action: str = "activation", /, **texts: dict[str, str]) -> dict[str, str]:
    """The files of an action in these languages."""
    return {
        f"{action}/{language.replace('_', '-')}/{name}": text
        for language, files in texts.items()
        for name, text in files.items()
    }


def activation(folder: Path, **changes: str) -> Path:
    """Write a good folder in English with other texts for `subject`, `text` or `html`."""
    endings = {"subject": "subject.txt", "text": "text.txt", "html": "html.html"}
    return write(folder, languages(en=GOOD | {endings[part]: text for part, text in changes.items()}))
