"""Open an optuna storage, which several workers and machines may share."""

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

_MOST_OPENINGS = 10
"""Times that a storage is opened which other workers are making at that moment."""


def open_storage(url: str, make: bool = True) -> BaseStorage:
    """Open a storage that optuna's `RDBStorage` takes, such as sqlite:///runs/study.db.

    Args:
        url: Its URL.
        make: Whether a file that is not there is made.

    Raises:
        InputError: Where it cannot be opened.
    """
    optuna_logging.set_verbosity(optuna_logging.ERROR)
    parsed = _parse(url)
    shown = redact_text(parsed.render_as_string(hide_password=True))
    try:
        sqlite = parsed.get_backend_name() == "sqlite"
        if sqlite and parsed.database:
            if not make and not Path(parsed.database).is_file():
                raise FileNotFoundError("there is no such file")
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
            _check_tables(url)
        storage = _open(url, {"connect_args": {"timeout": 120}} if sqlite else None)
        if sqlite:
            _make_transactions_whole(storage.engine)
    except Exception as error:  # drivers, SQLAlchemy, alembic and optuna raise errors of many kinds
        reason = redact_text(one_line(error), [parsed.password] if isinstance(parsed.password, str) else [])
        raise InputError(
            f"--storage {shown}: cannot be opened ({reason}); give a URL such as sqlite:///runs/study.db."
        ) from None  # the cause may show the password
    return storage


def _parse(url: str) -> URL:
    """Parse a URL. The error of one that cannot be parsed shows nothing behind its scheme, as a password may be there.

    Raises:
        InputError: Also if an @ of the password was taken for the end of it.
    """
    try:
        parsed = make_url(url)
        ambiguous = parsed.get_backend_name() != "sqlite" and "@" in f"{parsed.host}{parsed.database}"
    except (SQLAlchemyError, ValueError):
        parsed, ambiguous = None, False
    if parsed is not None and not ambiguous:
        return parsed
    scheme, separator, _ = url.partition("://")
    shown = f"{scheme}{separator}{MASK}" if separator else MASK if set("@=:") & set(url) else url
    raise InputError(
        f"--storage {shown}: cannot be opened (it is not a URL that can be read); give a URL such as "
        "sqlite:///runs/study.db or postgresql://USER:PASSWORD@HOST:5432/NAME, with %40, %3A and %2F for @, : and / "
        "in a password."
    )


def study_names(storage: BaseStorage) -> list[str]:
    """Return the names of the studies of a storage, in the order of the alphabet.

    Raises:
        InputError: If it is damaged.
    """
    try:
        return sorted(get_all_study_names(storage))
    except Exception as error:  # optuna raises errors of many kinds for rows that it did not write
        raise InputError(f"the storage cannot be read ({one_line(error)}); restore it from a copy.") from error


def _check_tables(url: str) -> None:
    """Raise a `ValueError` if an SQLite file is the database of another program, into which nothing may be written."""
    engine = create_engine(url, poolclass=NullPool)
    tables = inspect(engine).get_table_names()
    engine.dispose()
    if tables and "studies" not in tables:
        raise ValueError(f"it is the database of another program, with the table {tables[0]}")


def _open(url: str, engine: dict | None) -> RDBStorage:
    """Open a storage, again where another worker was making it: optuna looks for tables and rows, then makes them."""
    for _ in range(_MOST_OPENINGS - 1):
        try:
            return RDBStorage(url, engine_kwargs=engine)
        except SQLAlchemyError as error:
            if not isinstance(error, IntegrityError) and "already exists" not in str(error):
                raise
            time.sleep(0.1)
    return RDBStorage(url, engine_kwargs=engine)


def _make_transactions_whole(engine) -> None:
    """Let no other process write between a transaction's first look and its end.

    Python's sqlite3 begins a transaction at its first write, so two workers could both see a trial waiting. The cure
    is SQLAlchemy's (https://docs.sqlalchemy.org/en/20/dialects/sqlite.html, on transactions of pysqlite).
    """

    @event.listens_for(engine, "connect")
    def _leave_transactions_to_us(connection, _):
        connection.isolation_level = None

    @event.listens_for(engine, "begin")
    def _begin(connection):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
