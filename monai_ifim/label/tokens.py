"""Who sends a request, by the token of an OpenID server such as Keycloak.

MONAI Label 0.8.5 does not name the algorithms of a signature, which PyJWT 2 asks for: with its
authentication on, it refuses every token.
"""

from __future__ import annotations

import jwt
import requests
from fastapi import Depends, HTTPException
from monailabel.config import settings
from monailabel.endpoints.user import auth

from monai_ifim.messages import reason

_ALGORITHMS = ["RS256", "RS384", "RS512"]  # those of a public key; never HS256, never "none"


def user_of_token(
    token: str = Depends(auth.oauth2_scheme) if settings.MONAI_LABEL_AUTH_ENABLE else "",
) -> auth.User:
    """The user, in the place of MONAI Label's ``get_current_user``.

    Args:
        token: of the request.

    Returns:
        Name and roles; MONAI Label's administrator where nobody is asked.

    Raises:
        HTTPException: 401, no valid token; 503, the OpenID server does not answer.
    """
    if not settings.MONAI_LABEL_AUTH_ENABLE:
        return auth.DEFAULT_USER
    realm = settings.MONAI_LABEL_AUTH_REALM_URI
    try:
        key = auth.get_public_key(realm)
    except (requests.RequestException, KeyError, ValueError) as error:
        raise HTTPException(
            503,
            f"expected the public key of {realm}, got {reason(error)}; start the OpenID server, or "
            "correct MONAI_LABEL_AUTH_REALM_URI",
        ) from error
    try:
        claims = jwt.decode(token, key, algorithms=_ALGORITHMS, options={"verify_aud": False})
    except jwt.InvalidTokenError as error:
        raise HTTPException(
            401,
            f"expected a valid token, got {reason(error)}; POST /auth/token gives one",
            headers={"WWW-Authenticate": "Bearer"},
        ) from error
    roles = claims
    for name in settings.MONAI_LABEL_AUTH_TOKEN_ROLES.split("#"):
        roles = roles.get(name) if isinstance(roles, dict) else None
    return auth.User(
        username=str(claims.get(settings.MONAI_LABEL_AUTH_TOKEN_USERNAME, "")),
        email=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_EMAIL),
        name=claims.get(settings.MONAI_LABEL_AUTH_TOKEN_NAME),
        roles=[str(role) for role in roles] if isinstance(roles, list) else [],
    )
