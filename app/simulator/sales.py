"""A new order of a made-up reseller, with the keys of Prioticket's own orders. Pure."""

from datetime import datetime, timedelta
from random import Random
from typing import Any

from faker import Faker

PRODUCTS = (
    ("Canal Cruise - 60 minutes", "18.50"),
    ("Museum of Modern Sculpture - timed entry", "22.50"),
    ("Hop-on Hop-off Bus - 24 hours", "29.00"),
    ("Botanical Garden - day ticket", "12.00"),
    ("Lighthouse and Harbour Tour", "16.75"),
    ("Observation Deck - skip the line", "34.00"),
    ("Old Brewery Tour with tasting", "21.00"),
    ("Aquarium - family day", "26.50"),
)
GUESTS = (("ADULT", "Adult", 18, 99, "1.00"), ("CHILD", "Child", 4, 17, "0.60"), ("SENIOR", "Senior", 65, 99, "0.85"))
VAT_PERCENT = 9


def new_order(
    random: Random,
    faker: Faker,
    *,
    reference: str,
    at: datetime,
    bookings: int | None = None,
    guests: int | None = None,
) -> dict[str, Any]:
    """A new order, at version 0; without numbers of bookings and of guests in each, as many as usual."""
    language = random.choice(("en", "nl", "de", "fr"))
    places = range(bookings or random.choice((1, 1, 1, 2, 3)))
    booked = [_booking(random, reference, place, language, at, guest_count=guests) for place in places]
    total = sum(round(float(each["booking_pricing"]["price_total"]) * 100) for each in booked)
    made = stamp(at)
    return {
        "order_platform_id": "1",
        "order_platform_name": "Simulated Platform",
        "order_reseller_id": "1300",
        "order_reseller_name": "Simulated Reseller",
        "order_distributor_id": "501",
        "order_distributor_name": "Simulated Distributor",
        "order_reference": reference,
        "order_external_reference": f"SIM-{reference[3:]}",
        "order_status": "ORDER_PENDING",
        "order_settlement_type": "EXTERNAL",
        "order_channel": "PARTNER",
        "order_language": language,
        "order_version": 0,
        "order_archived": False,
        "order_redacted": False,
        "order_contacts": [
            {
                "contact_uid": faker.uuid4(),
                "contact_version": 1,
                "contact_type": "BOOKER",
                "contact_name_first": faker.first_name(),
                "contact_name_last": faker.last_name(),
                "contact_email": faker.ascii_safe_email(),
                "contact_language": language,
                "contact_created": made,
                "contact_modified": made,
            }
        ],
        "order_pricing": _price(total),
        "order_options": {},
        "order_custom_fields": [{"custom_field_name": "agent", "custom_field_value": "simulated"}],
        "order_created": made,
        "order_modified": made,
        "order_created_name": "Simulated API User",
        "order_created_email": "api-user@example.com",
        "order_view_type": "DISTRIBUTOR",
        "order_bookings": booked,
    }


def stamp(at: datetime) -> str:
    """The instant as Prioticket writes it: RFC 3339 with an offset."""
    return at.isoformat(timespec="seconds")


def move(booking: dict[str, Any], travels: datetime) -> None:
    """Sets the booking's time of travel, and the availability that belongs to it."""
    booking["booking_travel_date"] = stamp(travels)
    booking["product_availability_id"] = f"{booking['product_id']}-{travels:%Y%m%d%H%M}"
    booking["product_availability_from_date_time"] = stamp(travels)
    booking["product_availability_to_date_time"] = stamp(travels + timedelta(hours=1))


def _booking(
    random: Random, reference: str, place: int, language: str, at: datetime, *, guest_count: int | None
) -> dict[str, Any]:
    title, price = random.choice(PRODUCTS)
    product = str(62000 + PRODUCTS.index((title, price)))
    guests = [random.choice(GUESTS) for _ in range(guest_count or random.randint(1, 4))]
    cents = [round(float(price) * float(share) * 100) for *_, share in guests]
    booking = {
        "booking_reference": f"BKG{reference[3:]}{'ABC'[place]}",
        "booking_external_reference": f"SIM-{reference[3:]}-{place + 1}",
        "booking_status": "BOOKING_PROCESSING_CONFIRMATION",
        "booking_version": 0,
        "booking_voucher_released": False,
        "booking_language": language,
        "booking_pricing": _price(sum(cents)),
        "booking_created": stamp(at),
        "booking_modified": stamp(at),
        "product_id": product,
        "product_title": title,
        "product_supplier_id": "145",
        "product_supplier_name": "Simulated Supplier",
        "product_market_admin_id": "1",
        "product_market_admin_name": "Simulated Market Admin",
        "product_admission_type": "TIME_POINT",
        "product_currency_code": "EUR",
        "product_cancellation_allowed": True,
        "product_code_settings": {
            "product_code_format": "QR_CODE",
            "product_code_source": "EXTERNAL",
            "product_group_code": False,
            "product_combi_code": False,
            "product_voucher_settings": "PER_PERSON",
        },
        "product_type_details": [
            _guest(guest, product, number, cents[number], transaction=f"{random.getrandbits(39):012d}")
            for number, guest in enumerate(guests)
        ],
    }
    travels = (at + timedelta(days=random.randint(1, 30))).replace(hour=random.randint(9, 17), minute=30, second=0)
    move(booking, travels)
    return booking


def _guest(
    guest: tuple[str, str, int, int, str], product: str, number: int, cents: int, *, transaction: str
) -> dict[str, Any]:
    kind, label, youngest, oldest, _ = guest
    return {
        "product_type": kind,
        "product_type_class": "STANDARD",
        "product_type_id": f"{product}{number}",
        "product_type_label": label,
        "product_type_age_from": youngest,
        "product_type_age_to": oldest,
        "product_type_count": 1,
        "product_type_pax": 1,
        "product_type_capacity": 1,
        "product_type_code": "",
        "product_type_transaction_id": transaction,
        "product_type_status": "CONFIRMED",
        "product_type_redemption_status": "PENDING",
        "product_type_pricing": _price(cents),
    }


def _price(cents: int) -> dict[str, Any]:
    tax = round(cents * VAT_PERCENT / (100 + VAT_PERCENT))
    return {
        "price_type": "PURCHASE_GROSS",
        "price_currency_code": "EUR",
        "price_subtotal": _amount(cents),
        "price_taxes": [{"tax_id": "12", "tax_name": "VAT", "tax_amount": _amount(tax)}],
        "price_fees": [],
        "price_total": _amount(cents),
    }


def _amount(cents: int) -> str:
    return f"{cents // 100}.{cents % 100:02d}"
