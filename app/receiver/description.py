"""What the webhook's URL takes and answers, for the OpenAPI document: all that Prioticket is told."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from app.events.store import StoreFull, StoreUnavailable
from app.receiver.endpoint import NotAcceptable, NotReadable, TooLarge, TooSlow, Unprocessable, UnsupportedMediaType
from app.web.openapi.operations import Answer, Operation

NOTIFICATION = {
    "api_version": "3.8.0",
    "data": {
        "kind": "notification",
        "notification": {
            "notification_id": "3f7c1d0a-9f55-4d0e-8a35-6a1f0f3f2b10",
            "notification_status": "DELIVERY_PENDING",
            "notification_event": "ORDER_CANCEL",
            "notification_item_id": "PRI26081200417",
            "notification_created": "2026-08-12T10:15:32+02:00",
        },
    },
}
ORDER = {
    "api_version": "3.8.0",
    "data": {
        "kind": "order",
        "order": {
            "order_reference": "PRI26081200417",
            "order_external_reference": "WEB-10442",
            "order_status": "ORDER_CONFIRMED",
            "order_version": 2,
            "order_distributor_id": "1300501",
            "order_created": "2026-08-12T10:15:30+02:00",
            "order_modified": "2026-08-12T10:15:41+02:00",
            "order_bookings": [{"booking_reference": "PRI26081200417-1", "booking_status": "BOOKING_CONFIRMED"}],
        },
    },
}


class Envelope(BaseModel):
    """A webhook: a notification, the changed object itself, or both. All but `data` may be missing."""

    model_config = ConfigDict(extra="allow")

    data: dict[str, Any] = Field(description="With `notification`, `order`, `payment` or `product`; unknown keys pass.")


RECEIVE = Operation(
    summary="Receive a webhook",
    tag="webhook",
    description=(
        "Judged in this order: credential, scope, `Accept`, the body's size, its content type and coding, its arrival "
        "in time, its JSON, its envelope. From 413 on what arrived is kept in quarantine. A second copy is answered "
        "200 as the first was. After 503 or a broken connection send the same request again."
    ),
    body=Envelope,
    examples={"notification": NOTIFICATION, "order": ORDER},
    answers={
        200: Answer(
            description="It is stored, after COMMIT; or it is a copy of what was stored before.",
            media_type=None,
            headers={"Event-Id": "The id of the stored event."},
        )
    },
    problems=(
        NotAcceptable,
        TooLarge,
        UnsupportedMediaType,
        TooSlow,
        NotReadable,
        Unprocessable,
        StoreFull,
        StoreUnavailable,
    ),
)
