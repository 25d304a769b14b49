"""What schemathesis needs to know of Vedetta: how to get an account and its token.

What ends an account or its tokens gets one of its own each time; everything else shares one. Half of the bodies that name an address
or the current password get the account's, so that some of them are right.
"""

import atexit
import os
import uuid
import zlib

import requests
import schemathesis

USERS = os.environ["VEDETTA"] + "/user_manager"
AIRPORTS = os.environ["VEDETTA"] + "/data_collector"
PASSWORD = "correct horse battery"
ENDS = ("deleteAccount", "deleteAccountByEmail", "changePassword")


def account():
    email = f"u{uuid.uuid4().hex}@example.com"
    person = {"email": email, "name": "Ada", "surname": "Example", "password": PASSWORD}
    requests.post(USERS + "/register", json=person, verify=False).raise_for_status()
    login = requests.post(USERS + "/login", json={"email": email, "password": PASSWORD}, verify=False)
    return email, login.json()["access_token"]


def check_token():
    """A token that has ended would have made every answer a 401, which is documented."""
    me = requests.get(USERS + "/me", headers={"Authorization": f"Bearer {shared[1]}"}, verify=False)
    if me.status_code != 200:
        print(f"the token was good for nothing: {me.status_code}")
        os._exit(1)


shared = account()
atexit.register(check_token)
# So that there is something to change.
requests.put(
    AIRPORTS + "/interests/KJFK", json={}, headers={"Authorization": f"Bearer {shared[1]}"}, verify=False
).raise_for_status()


@schemathesis.auth(refresh_interval=None)
class Auth:
    def get(self, case, context):
        ends = case.operation.definition.raw.get("operationId") in ENDS
        return account() if ends else shared

    def set(self, case, data, context):
        email, token = data
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {token}"
        body = case.body
        # Half of them, the same ones when a run is repeated with its seed.
        if not isinstance(body, dict) or zlib.crc32(repr(sorted(body.items(), key=str)).encode()) % 2:
            return
        operation = case.operation.definition.raw.get("operationId")
        if operation == "deleteAccountByEmail" and "email" in body:
            body["email"] = email
        if operation in ("modifieTreshold", "modifyTreshold") and "icao" in body:
            body["icao"] = "KJFK"
        if operation == "changePassword" and "current" in body:
            body["current"] = PASSWORD
            body.pop("email", None)
