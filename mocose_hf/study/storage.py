"""Open an optuna storage, which several workers and machines can share."""

import time
from pathlib import Path

from optuna import get_all_study_names
from optuna import logging as optuna_logging
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy import create_engine, event, inspect
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.pool import NullPool

from mocose_hf.errors import InputError, one_line
from mocose_hf.study.redaction import MASK, redact_text

_MAX_OPEN_ATTEMPTS = 10
"""Attempts to open a storage that other workers create at the same moment."""


def open_storage(url: str, create: bool = True) -> BaseStorage:
    """Open a storage of optuna's `RDBStorage`.

    Args:
        url: Its URL, such as sqlite:///runs/study.db.
        create: Whether to create a missing SQLite file.

    Raises:
        InputError: If it cannot be opened.
    """
    optuna_logging.set_verbosity(optuna_logging.ERROR)
    parsed = _parse(url)
    shown = redact_text(parsed.render_as_string(hide_password=True))
    try:
        is_sqlite = parsed.get_backend_name() == "sqlite"
        if is_sqlite and parsed.database:
            if not create and not Path(parsed.database).is_file():
                raise FileNotFoundError("there is no such file")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            _validate_tables(url)
        storage = _open(url, {"connect_args": {"timeout": 120}} if is_sqlite else None)
        if is_sqlite:
            _lock_whole_transactions(storage.engine)
    except Exception as error:  # drivers, SQLAlchemy, alembic and optuna raise errors of many kinds
        reason = redact_text(one_line(error), [parsed.password] if isinstance(parsed.password, str) else [])
        raise InputError(
            f"--storage {shown}: cannot be opened ({reason}); give a URL such as sqlite:///runs/study.db."
        ) from None  # the cause may show the password
    return storage


def _parse(url: str) -> URL:
    """Parse a URL. If that fails, the error shows only the scheme, because the rest may hold a password.

    Raises:
        InputError: Also if the URL was split at an @ within the password.
    """
    try:
        parsed = make_url(url)
        is_ambiguous = parsed.get_backend_name() != "sqlite" and "@" in f"{parsed.host}{parsed.database}"
    except (SQLAlchemyError, ValueError):
        parsed, is_ambiguous = None, False
    if parsed is not None and not is_ambiguous:
        return parsed
    scheme, separator, _ = url.partition("://")
    shown = f"{scheme}{separator}{MASK}" if separator else MASK if set("@=:") & set(url) else url
    raise InputError(
        f"--storage {shown}: cannot be opened (it is not a valid URL); give a URL such as sqlite:///runs/study.db or "
        "postgresql://USER:PASSWORD@HOST:5432/NAME. In a password, write %40 for @, %3A for : and %2F for /."
    )


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of the studies in a storage, sorted.

    Raises:
        InputError: If the storage is damaged.
    """
    try:
        return sorted(get_all_study_names(storage))
    except Exception as error:  # optuna raises errors of many kinds for rows that it did not write
        raise InputError(f"the storage cannot be read ({one_line(error)}); restore it from a copy.") from error


def _validate_tables(url: str) -> None:
    """Raise a `ValueError` if an SQLite file is the database of another program, which must not be changed."""
    engine = create_engine(url, poolclass=NullPool)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    if tables and "studies" not in tables:
        raise ValueError(f"it is the database of another program, with the table {tables[0]}")


def _open(url: str, engine_options: dict | None) -> RDBStorage:
    """Open a storage, and try again if another worker creates it: optuna checks for tables before it creates them."""
    for _ in range(_MAX_OPEN_ATTEMPTS - 1):
        try:
            return RDBStorage(url, engine_kwargs=engine_options)
        except SQLAlchemyError as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(0.1)
    return RDBStorage(url, engine_kwargs=engine_options)


def _lock_whole_transactions(engine) -> None:
    """Lock the database from the first read of a transaction to its end.

    Python's sqlite3 begins a transaction at its first write, so two workers could both see the same waiting trial.
    This is SQLAlchemy's remedy: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html, on transactions of pysqlite.
    """

    @event.listens_for(engine, "connect")
    def _disable_implicit_transactions(connection, _):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
