#!/usr/bin/env python3
"""Seeds Directus over its REST API: authors, articles, tags, comments, with relations of every kind.

directus/seed.py URL TOKEN
"""

import json
import sys
import time
import urllib.error
import urllib.request

AUTHORS, TAGS, ARTICLES, COMMENTS = 120, 30, 2000, 4000
START_SECONDS = 120
BATCH = 500


class Api:
    def __init__(self, url, token):
        self.url, self.token = url, token

    def call(self, method, path, body=None):
        request = urllib.request.Request(self.url + path, method=method,
                                         data=None if body is None else json.dumps(body).encode(),
                                         headers={"Authorization": "Bearer " + self.token,
                                                  "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            sys.exit("testbed: %s %s: %s" % (method, path, error.read()[:500].decode()))

    def wait(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(self.url + "/server/ping", timeout=5).close()
                return
            except OSError:
                time.sleep(0.2)
        sys.exit("testbed: Directus did not answer within %d s" % START_SECONDS)

    def collection(self, collection, **fields):
        key = {"field": "id", "type": "integer", "schema": {"is_primary_key": True, "has_auto_increment": True},
               "meta": {"hidden": True}}
        plain = [{"field": field, "type": kind, "schema": {}, "meta": {}} for field, kind in fields.items()]
        self.call("POST", "/collections", {"collection": collection, "schema": {}, "meta": {}, "fields": [key, *plain]})

    def many_to_one(self, collection, field, related, one_field=None, junction=None):
        if one_field:
            self.call("POST", "/fields/" + related, {"field": one_field, "type": "alias",
                                                     "meta": {"special": ["m2m" if junction else "o2m"]}})
        self.call("POST", "/relations", {"collection": collection, "field": field, "related_collection": related,
                                         "schema": {"on_delete": "SET NULL"},
                                         "meta": {"one_field": one_field, "junction_field": junction}})

    def items(self, collection, rows):
        for at in range(0, len(rows), BATCH):
            self.call("POST", "/items/" + collection, rows[at:at + BATCH])


def main():
    api = Api(sys.argv[1], sys.argv[2])
    api.wait()
    api.collection("authors", name="string", email="string", bio="text")
    api.collection("tags", name="string")
    api.collection("articles", title="string", body="text", status="string", published="timestamp", rating="integer",
                   author="integer")
    api.collection("comments", text="text", author_name="string", article="integer")
    api.collection("articles_tags", articles_id="integer", tags_id="integer")
    api.many_to_one("articles", "author", "authors", "articles")
    api.many_to_one("comments", "article", "articles", "comments")
    api.many_to_one("articles_tags", "articles_id", "articles", "tags", "tags_id")
    api.many_to_one("articles_tags", "tags_id", "tags", None, "articles_id")
    api.items("authors", [{"name": "Author %d" % n, "email": "a%d@example.com" % n, "bio": "It's; -- %d" % n}
                          for n in range(1, AUTHORS + 1)])
    api.items("tags", [{"name": "tag %d" % n} for n in range(1, TAGS + 1)])
    api.items("articles", [{"title": "Article %d" % n, "body": "Words of %d. " % n * 20,
                            "status": ("draft", "published", "archived")[n % 3], "rating": n % 10,
                            "published": "2026-%02d-%02dT12:00:00Z" % (1 + n % 12, 1 + n % 28),
                            "author": 1 + n % AUTHORS} for n in range(1, ARTICLES + 1)])
    api.items("comments", [{"text": "Comment %d" % n, "author_name": "Reader %d" % (n % 77), "article": 1 + n % ARTICLES}
                           for n in range(COMMENTS)])
    api.items("articles_tags", [{"articles_id": 1 + n % ARTICLES, "tags_id": 1 + n * 7 % TAGS}
                                for n in range(ARTICLES * 2)])


if __name__ == "__main__":
    main()
