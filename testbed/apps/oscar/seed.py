#!/usr/bin/env python3
"""Seeds the shop: a catalogue over Oscar's own import, reviews, a customer with orders.

Repeatable: what is there already is left alone. Prints the session of the staff user.
"""

import csv
import os
import sys
import tempfile

import django
from django.core.management import call_command

PRODUCTS, CATEGORIES, REVIEWED, ORDERS = 400, 20, 60, 40
STAFF = "staff@shop.test"


def catalogue(path):
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, escapechar="\\")
        for n in range(PRODUCTS):
            category = n % CATEGORIES
            writer.writerow(["Book", "Books > Shelf %d > Row %d" % (category // 5, category),
                             "978%07d" % n, "Book number %d" % n,
                             "It's the %d. book; \"quoted\", with -- dashes and %% signs." % n,
                             "Publisher %d" % (n % 7), "sku-%05d" % n, "%d.99" % (5 + n % 40), 100 + n])


def user(email, staff=False):
    from django.contrib.auth import get_user_model

    found = get_user_model().objects.filter(email=email).first()
    if found is None:
        found = get_user_model().objects.create_user(email.split("@")[0], email, "testbed", is_staff=staff,
                                                     is_superuser=staff)
    return found


def reviews():
    from oscar.core.loading import get_model

    product_model, review_model = get_model("catalogue", "Product"), get_model("reviews", "ProductReview")
    customers = [user("customer%d@shop.test" % n) for n in range(8)]
    for product in product_model.objects.order_by("upc")[:REVIEWED]:
        for n, customer in enumerate(customers):
            if not review_model.objects.filter(product=product, user=customer).exists():
                review_model.objects.create(product=product, user=customer, score=1 + n % 5,
                                            title="Review %d" % n, body="It is a book.", status=review_model.APPROVED)


def orders(customer):
    from oscar.core.loading import get_model
    from oscar.test.factories import create_order, create_basket

    if get_model("order", "Order").objects.count() >= ORDERS:
        return
    products = list(get_model("catalogue", "Product").objects.order_by("upc")[:ORDERS])
    for n in range(ORDERS):
        basket = create_basket(empty=True)
        for product in products[n:n + 3] or products[:1]:
            basket.add_product(product, quantity=1)
        create_order(number="%06d" % (100000 + n), basket=basket, user=customer)


def session(staff):
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    store = SessionStore()
    store[SESSION_KEY] = str(staff.pk)
    store[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
    store[HASH_SESSION_KEY] = staff.get_session_auth_hash()
    store.save()
    return store.session_key


def main():
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop_settings")
    django.setup()
    from oscar.core.loading import get_model

    if "--session" not in sys.argv:
        call_command("migrate", verbosity=0)
        if get_model("catalogue", "Product").objects.count() < PRODUCTS:
            with tempfile.NamedTemporaryFile(suffix=".csv") as file:
                catalogue(file.name)
                call_command("oscar_import_catalogue", file.name)
        reviews()
        orders(user("customer0@shop.test"))
    print(session(user(STAFF, staff=True)))


if __name__ == "__main__":
    main()
