"""No secret leaves the process: what is masked, in params, tags, names and messages.

Three things are recognised, none of them by importing the package that it comes from: names (``db_password``,
``apiKey``), values of types made for secrets (pydantic's ``SecretStr``, Prefect's ``Secret``, Airflow's
``Connection``), and secrets inside text (``scheme://user:password@host``, keys of well-known shapes). It is a net
for mistakes: a password that stands in a param called ``x`` looks like any other text.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

from tracklayer.interruption import let_through

MASK: Final = "***"
"""What stands in the place of a secret."""

_WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[^\W\d_A-Za-z]+|\d+")

NAMES: Final = (
    "password",
    "passwords",
    "passwd",
    "pwd",
    "passphrase",
    "passcode",
    "db_pass",
    "user_pass",
    "smtp_pass",
    "secret",
    "secrets",
    "token",
    "credential",
    "credentials",
    "creds",
    "authorization",
    "bearer",
    "cookie",
    "cookies",
    "webhook",
    "dsn",
    "connection_string",
    "conn_string",
    "connection_str",
    "conn_str",
    "connectionstring",
    "connstr",
    *(
        name
        for kind in (
            "api",
            "access",
            "account",
            "auth",
            "client",
            "decryption",
            "encryption",
            "fernet",
            "host",
            "license",
            "master",
            "private",
            "secret",
            "service",
            "shared",
            "signing",
            "ssh",
            "storage",
        )
        for name in (f"{kind}_key", f"{kind}_keys", f"{kind}key")
    ),
    *(f"{kind}token" for kind in ("access", "api", "auth", "bearer", "refresh", "session")),
)
"""Names that are masked always. A name matches if it holds these words side by side, however they are joined."""

# `token` means two things. These words beside it say that it is the one of language models.
_BEFORE_TOKEN = re.compile(
    "additional|audio|bos|boundary|cls|decoder|end|eos|first|image|last|mask|middle|newline|next|num|pad|padding|per"
    "|prefix|sep|separator|single|space|special|start|stop|suffix|unk|unknown|video|word"
)
_AFTER_TOKEN = re.compile(
    "accuracy|batch|bias|budget|classification|classifier|count|counter|counts|dim|dimension|distribution|dropout|emb"
    "|embedding|embeddings|endpoint|entropy|expiry|filter|frequency|id|ids|index|indices|kind|len|length|level|lifetime"
    "|limit|limits|logits|loss|mask|masking|max|merging|min|mixing|norm|num|number|offset|pattern|per|position|positions"
    "|prob|probabilities|probability|rate|ratio|sequence|shape|size|sizes|style|type|types|uri|url|usage|vocab|weight"
    "|weights|window"
)

_SECRET_TYPES = frozenset({"Secret", "SecretStr", "SecretBytes", "SecretString", "SecretDict", "_SecretBase"})
_SECRET_TYPES_OF = frozenset({("airflow", "Connection"), ("airflow", "Variable"), ("kubernetes", "V1Secret")})

# Airflow masks in its logs what came from its connections and variables. Where it is loaded it is asked, so that the
# same values do not reach MLflow either: Airflow 3, Airflow 2.
_MASKERS: Final = ("airflow.sdk.log", "airflow.utils.log.secrets_masker")

_NAMED = (
    r"(?:password|passwd|pwd|passphrase|secret|api[_-]?key|access[_-]?key|account[_-]?key|secret[_-]?key"
    r"|private[_-]?key|shared[_-]?access[_-]?(?:key|signature)|(?:access|auth|refresh|session|security|id)[_-]?token)"
)
_VALUE = r"""(?:'[^']{1,4096}'|"[^"]{1,4096}"|(?!(?:none|null|true|false)\b)[^\s&;,'"<>()\[\]{}]{1,4096})"""
_SHAPES = (
    r"(?<![A-Za-z0-9])(?:gh[pousr]_[A-Za-z0-9]{30,255}|github_pat_\w{40,255}|glpat-[\w-]{20,64}"
    r"|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{35}|ya29\.[\w-]{20,2048}|xox[abeoprs]-[\w-]{10,255}"
    r"|[rs]k_(?:live|test)_[A-Za-z0-9]{16,255}|sk-(?=[\w-]{0,64}\d)[\w-]{20,255}|hf_[A-Za-z0-9]{30,64}"
    r"|dapi[0-9a-f]{32}(?:-\d)?|npm_[A-Za-z0-9]{36}|py[p]i-AgE[\w-]{50,512})(?![A-Za-z0-9])"
)
# What must be in the (lower-case) text for a rule to be tried, the rule, what takes the match's place. Rules are
# compiled when they are first tried, since most processes never see a text that needs one. Every repeat is bounded,
# so that no text, however long or hostile, takes more than linear time.
_CREDENTIALS: Final = (
    # scheme://user:password@host; a password may hold an unescaped @, and even a slash
    (
        ("@",),
        r"""://([^\s/?#:@'"<>]{0,256}):(?:[^\s/?#'"<>]{1,4096}@|(?!\d{0,5}(?:[/?#]|$))[^\s'"<>]{1,256}@)""",
        rf"://\1:{MASK}@",
    ),
    # https://token@host: no password, and a user name that is too long to be one
    (("@",), r"""(?i)(?<=http)(s?)://[^\s/?#:@'"<>]{20,512}@""", rf"\1://{MASK}@"),
    # ?token=…&sig=…
    (
        ("?", "&"),
        r"""(?i)([?&][\w.-]{0,40}(?:token|signature|sig|credential|auth|key|password|secret)=)[^\s&;'"<>#]{1,4096}""",
        rf"\1{MASK}",
    ),
)
_RULES: Final = (
    *_CREDENTIALS,
    # password=…, Pwd=…;
    (("=",), rf"""(?i)(?<![a-z0-9])({_NAMED}["']?\s{{0,8}}=\s{{0,8}}){_VALUE}""", rf"\1{MASK}"),
    # "db_password": "…"
    (
        (":",),
        rf"""(?i)(["'](?:[a-z0-9]{{1,40}}[_-]){{0,4}}{_NAMED}["']\s{{0,8}}:\s{{0,8}}){_VALUE}""",
        rf"\1{MASK}",
    ),
    # --password hunter2
    (("--",), rf"""(?i)(?<!\S)(--(?:[a-z0-9]{{1,40}}-){{0,4}}(?:{_NAMED}|token)(?:\s|=))\S{{1,4096}}""", rf"\1{MASK}"),
    # Authorization: Basic …, Bearer …
    (
        ("authorization",),
        r"(?i)(authorization[\"']?\s{0,8}[:=]\s{0,8}[\"']?[a-z]{1,16}\s{1,8})[^\s'\"]{1,8192}",
        rf"\1{MASK}",
    ),
    (("bearer",), r"(?i)\b(bearer\s{1,8})(?=[^\s]{0,64}\d)[a-z0-9._~+/=-]{16,8192}", rf"\1{MASK}"),
    # private keys in PEM
    (
        ("private key-----",),
        r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----[^-]{0,20000}(?:-----END [A-Z ]{0,32}PRIVATE KEY-----)?",
        MASK,
    ),
    # JSON web tokens
    (("eyj",), r"(?<![\w.-])eyJ[\w-]{8,4096}\.eyJ[\w-]{2,8192}\.[\w-]{0,8192}", MASK),
    (("https://hooks.slack.com/",), r"(https://hooks\.slack\.com/services/)[\w/-]{1,255}", rf"\1{MASK}"),
    # keys that show what they are: GitHub, GitLab, AWS, Google, Slack, Stripe, Hugging Face, Databricks, npm, …
    (("_", "-", "akia", "asia", "aiza", "ya29", "dapi"), _SHAPES, MASK),
)
_HINT = re.compile(r"""[=@?&]|--|["']\s*:|(?i:bearer)""")
_STEMS = re.compile("pass|pwd|secret|token|cred|auth|bearer|cookie|webhook|dsn|conn|key")


def mask_text(text: str) -> str:
    """Mask what is recognisably secret inside `text`: credentials in URLs, ``password=…``, keys of known shapes.

    >>> mask_text("postgresql://me:hunter2@db/mlflow")
    'postgresql://me:***@db/mlflow'
    >>> mask_text("Server=db;Pwd=hunter2;Timeout=5")
    'Server=db;Pwd=***;Timeout=5'
    """
    return _apply(_RULES, text)


def mask_url(url: str) -> str:
    """Mask only credentials in URLs: those in front of the host, and those in the query.

    >>> mask_url("https://me:hunter2@mlflow.internal/?token=abc")
    'https://me:***@mlflow.internal/?token=***'
    """
    return _apply(_CREDENTIALS, url)


def _apply(rules: Iterable[tuple[tuple[str, ...], str, str]], text: str) -> str:
    if len(text) < 20 and not _HINT.search(text):  # too short for a key, and nothing that a rule begins with
        return text
    lower = text.lower()
    for needs, pattern, replacement in rules:
        if any(need in lower for need in needs):
            text = re.sub(pattern, replacement, text)
    return text


def is_secret(value: object) -> bool:
    """Whether `value` is of a type that is made to hold a secret. Never raises, imports nothing.

    Known are classes called ``Secret``, ``SecretStr``, ``SecretBytes`` and the like, whoever defines them (pydantic,
    Prefect, Starlette), with their subclasses, and Airflow's ``Connection`` and ``Variable``.
    """
    for base in type(value).__mro__:
        # A generic class made concrete is called Secret[str].
        name = base.__name__.partition("[")[0]
        package = str(getattr(base, "__module__", "")).partition(".")[0]
        if name in _SECRET_TYPES or (package, name) in _SECRET_TYPES_OF:
            return True
    return False


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.lower() for word in _WORD.findall(name))


class Redaction:
    """Decides what is masked; made from the setting ``redact``. Immutable, safe to share between threads.

    Args:
        patterns: names to mask in addition to `NAMES`. A pattern is words, matched side by side however the name
            joins them (``api_key`` matches ``apiKey``, ``X-API-KEY`` and ``service.api.key``); one that holds ``*``
            or ``?`` is matched against the whole lower-case name instead (``*_pin``); one that begins with ``!``
            says that what it matches is no secret (``!public_token``).

    Example:
        >>> redaction = Redaction(["ssn", "!demo_password"])
        >>> redaction.mask("applicant.ssn", "078-05-1120")
        '***'
        >>> redaction.mask("dbPassword", "hunter2"), redaction.mask("demo_password", "demo")
        ('***', 'demo')
        >>> redaction.mask("tokenizer", "bert"), redaction.mask("max_tokens", 512)
        ('bert', 512)
    """

    __slots__ = ("_exempt", "_globs", "_has_patterns", "_own")

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        patterns = tuple(patterns)
        hidden = [pattern for pattern in patterns if not pattern.startswith("!")]
        shown = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
        self._has_patterns = bool(patterns)
        self._own = _phrases(hidden)
        self._globs = _globs(hidden)
        self._exempt = (_phrases(shown), _globs(shown))

    def hides(self, name: str) -> bool:
        """Whether a value of this name is masked whatever it is."""
        return self._verdict(name) == "secret"

    def mask(self, name: str, value: object) -> object:
        """`value` as it may leave the process; inside dicts, lists, tuples and sets too. Never raises.

        Args:
            name: the param's or tag's name, with dots between levels; the whole of it counts.
            value: None, True and False are never masked (they say only whether there is a secret); a number under a
                name that matches by ``token`` alone is kept (``token_dropout = 0.1``).

        Returns:
            The value itself where there is nothing to mask, `MASK` for a secret, or a copy with secrets masked.
        """
        try:
            return self._mask(name, value, ())
        except Exception as error:  # a value whose own methods raise is not shown at all
            let_through(error)
            return MASK

    def mask_text(self, text: str) -> str:
        """As the function `mask_text`; here so that whoever holds a `Redaction` needs nothing else."""
        return mask_text(text)

    def _mask(self, name: str, value: object, above: tuple[int, ...]) -> object:
        if value is None or value is True or value is False:
            return value
        verdict = self._verdict(name)
        if verdict == "secret" or (verdict and not isinstance(value, (int, float))):
            return MASK
        if type(value) in {int, float}:
            return value
        if is_secret(value):
            return MASK
        if isinstance(value, (str, bytes, bytearray)):
            return _mask_content(value)
        if isinstance(value, (Mapping, list, tuple, AbstractSet)):
            return self._mask_inside(name, value, above)
        return value

    def _mask_inside(
        self,
        name: str,
        value: Mapping[object, object] | list[object] | tuple[object, ...] | AbstractSet[object],
        above: tuple[int, ...],
    ) -> object:
        if id(value) in above or len(above) > 64:
            return "…"
        above = (*above, id(value))
        if isinstance(value, Mapping):
            # What {"name": "DB_PASSWORD", "value": …} holds is told by its neighbour.
            neighbour = value.get("name", "")
            return {
                key: self._mask(
                    f"{name}.{key}.{neighbour}" if key == "value" and neighbour else f"{name}.{key}", inner, above
                )
                for key, inner in value.items()
            }
        inside = _mask_flags([self._mask(name, inner, above) for inner in value])
        if isinstance(value, list):
            return inside
        if isinstance(value, tuple):
            return tuple(inside)
        return frozenset(inside) if isinstance(value, frozenset) else set(inside)

    def _verdict(self, name: str) -> str:
        """``secret``, ``token`` (masked unless it is a number), or nothing."""
        if self._has_patterns:
            words, lower = _words(name), name.lower()
            phrases, globs = self._exempt
            if _has_phrase(words, phrases) or any(glob.fullmatch(lower) for glob in globs):
                return ""
            if _has_phrase(words, self._own) or any(glob.fullmatch(lower) for glob in self._globs):
                return "secret"
        return _builtin_verdict(name)


def _mask_content(value: str | bytes | bytearray) -> object:
    text = value if isinstance(value, str) else value.decode("latin-1")
    masked = _mask_known(mask_text(text))
    if masked == text:
        return value
    return masked if isinstance(value, str) else MASK


def _mask_known(text: str) -> str:
    """Mask what an orchestrator that is loaded in this process knows to be secret."""
    for name in _MASKERS:
        masker = getattr(sys.modules.get(name), "redact", None)
        if masker is not None:
            return str(masker(text))
    return text


def _mask_flags(arguments: list[object]) -> list[object]:
    """Mask what follows a flag such as ``--password`` in the arguments of a command."""
    for place, argument in enumerate(arguments[:-1]):
        follows = arguments[place + 1]
        if isinstance(argument, str) and argument.startswith("--") and isinstance(follows, str):
            masked = mask_text(f"{argument} {follows}")
            arguments[place + 1] = masked.removeprefix(f"{argument} ")
    return arguments


def _phrases(patterns: Iterable[str]) -> Mapping[str, tuple[tuple[str, ...], ...]]:
    """Patterns of words, by their first word."""
    phrases: dict[str, tuple[tuple[str, ...], ...]] = {}
    for pattern in patterns:
        words = _words(pattern)
        if words and not set(pattern) & {"*", "?"}:
            phrases[words[0]] = (*phrases.get(words[0], ()), words)
    return phrases


def _globs(patterns: Iterable[str]) -> tuple[re.Pattern[str], ...]:
    return tuple(
        re.compile("".join({"*": ".*", "?": "."}.get(char, re.escape(char)) for char in pattern.lower()), re.DOTALL)
        for pattern in patterns
        if set(pattern) & {"*", "?"}
    )


def _has_phrase(words: tuple[str, ...], phrases: Mapping[str, tuple[tuple[str, ...], ...]]) -> bool:
    return any(
        words[place : place + len(phrase)] == phrase
        for place, word in enumerate(words)
        for phrase in phrases.get(word, ())
    )


_PHRASES: Final = _phrases(name for name in NAMES if name != "token")


@lru_cache(maxsize=4096)
def _builtin_verdict(name: str) -> str:
    if not _STEMS.search(name.lower()):  # as most
        return ""
    words = _words(name)
    if words in {("pass",), ("auth",)} or words[-2:] in {("basic", "auth"), ("http", "auth")}:
        return "secret"
    # Glued words (dbpassword, PGPASSWORD) have no boundary to split at; nothing harmless holds "password".
    if _has_phrase(words, _PHRASES) or any("password" in word or "passwd" in word for word in words):
        return "secret"
    for place, word in enumerate(words):
        if word != "token":
            continue
        before = words[place - 1] if place else ""
        after = words[place + 1] if place + 1 < len(words) else ""
        if not _BEFORE_TOKEN.fullmatch(before) and not _AFTER_TOKEN.fullmatch(after):
            return "token"
    return ""
