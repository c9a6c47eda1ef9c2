"""What a user would write with FastAPI and async SQLAlchemy, as durable as ours: `python -m bench.twin`.

It has one table with one index, and neither bounds nor strictness of its own. FastAPI comes with
`bench/requirements.txt`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from secrets import compare_digest
from typing import Annotated, Any
from uuid import UUID, uuid4

from fastapi import Depends, FastAPI, HTTPException, Request, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import BaseModel
from sqlalchemy import JSON, DateTime
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app.server.server import listen
from app.settings.model import Settings
from bench.load import PASSWORD, PATH, USERNAME
from bench.targets import plain, plain_engine


class Base(DeclarativeBase):
    """Its table."""


class Webhook(Base):
    """One request."""

    __tablename__ = "webhooks"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    received_at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
    kind: Mapped[str | None]
    reference: Mapped[str | None] = mapped_column(index=True)
    headers: Mapped[dict[str, str]] = mapped_column(JSON)
    body: Mapped[bytes]


class Envelope(BaseModel):
    """The body."""

    api_version: str | None = None
    data: dict[str, Any]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """The engine, and the table."""
    engine = plain_engine(Settings.load().database_url)
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    app.state.sessions = async_sessionmaker(engine, expire_on_commit=False)
    yield
    await engine.dispose()


async def database(request: Request) -> AsyncIterator[AsyncSession]:
    """A session for each request."""
    async with request.app.state.sessions() as session:
        yield session


def authenticated(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> str:
    """The username."""
    right = compare_digest(credentials.username.encode(), USERNAME.encode())
    if not (compare_digest(credentials.password.encode(), PASSWORD.encode()) and right):
        raise HTTPException(401)
    return str(credentials.username)


async def receive(
    request: Request,
    envelope: Envelope,
    session: Annotated[AsyncSession, Depends(database)],
    username: Annotated[str, Depends(authenticated)],
) -> Response:
    """Stores the request, then answers 200."""
    headers = {name: value for name, value in request.headers.items() if name != "authorization"}
    changed = envelope.data.get("order") or envelope.data.get("notification") or {}
    webhook = Webhook(
        id=uuid4(),
        received_at=datetime.now(UTC),
        kind=changed.get("notification_event") or changed.get("order_status"),
        reference=changed.get("order_reference") or changed.get("notification_item_id"),
        headers={**headers, "username": username},
        body=await request.body(),
    )
    session.add(webhook)
    await session.commit()
    return Response(headers={"Event-Id": str(webhook.id)})


if __name__ == "__main__":
    application = FastAPI(lifespan=lifespan)
    application.add_api_route(PATH, receive, methods=["POST"])
    plain(application, lifespan="on").run([listen("127.0.0.1", 0)])
