import sys

import pytest

from router.catalogue import FILES_CHARACTERS, PRIVATE, Catalogue
from router.hub_metadata import UnknownToken, parse_metadata
from router.weight_files import MAX_FILES
from shared.errors import HubUnavailable, RepoForbidden, RepoNotFound
from shared.refs import RepoId
from tests.builders import an_adapter
from tests.unit.router.hub_documents import PIXEL_ART, document

PUBLIC, SECRET = RepoId("nerijs/pixel-art-xl"), RepoId("alice/secret")
MANY_FILES = tuple(f"{number}.safetensors" for number in range(2 * MAX_FILES))


class SmallHub:
    """A public repository, and a private one that alice's token reads; bob's reads metadata only."""

    def __init__(self):
        self.now = 0.0
        self.asked = []
        self.checked = []
        self.down = False
        self.disabled = False
        self.open_to_all = False

    async def metadata(self, repo, revision, token):
        self.asked.append((repo, revision, token))
        if self.down:
            raise HubUnavailable("down")
        if repo == PUBLIC:
            return parse_metadata({**PIXEL_ART, **document(PUBLIC, MANY_FILES), "disabled": self.disabled})
        if token == "invented":
            raise UnknownToken("who?")
        if repo == SECRET and (self.open_to_all or token in {"alice", "bob"}):
            return parse_metadata(document(SECRET, MANY_FILES, private=True))
        raise RepoNotFound(repo)

    async def check_access(self, repo, revision, file, token):
        self.checked.append((repo, revision, file, token))
        if self.down:
            raise HubUnavailable("down")
        if token != "alice":
            raise RepoNotFound(repo)


@pytest.fixture
def hub():
    return SmallHub()


@pytest.fixture
def catalogue(hub):
    return Catalogue(hub, fresh=300.0, clock=lambda: hub.now)


async def test_public_facts_are_asked_for_anonymously_and_shared(hub, catalogue):
    await catalogue.look_up(PUBLIC, None, "alice")
    await catalogue.look_up(PUBLIC, None, None)

    assert hub.asked == [(PUBLIC, None, None)]


async def test_revisions_are_asked_for_apart(hub, catalogue):
    await catalogue.look_up(PUBLIC, None, None)
    await catalogue.look_up(PUBLIC, "v1", None)

    assert hub.asked == [(PUBLIC, None, None), (PUBLIC, "v1", None)]


async def test_a_private_repository_is_seen_by_the_token_that_reads_it_alone(catalogue):
    assert (await catalogue.look_up(SECRET, None, "alice")).private
    for token in (None, "mallory"):
        with pytest.raises(RepoNotFound):
            await catalogue.look_up(SECRET, None, token)


async def test_what_a_token_sees_is_remembered_for_a_minute(hub, catalogue):
    for hub.now in (0.0, PRIVATE - 0.1):
        await catalogue.look_up(SECRET, None, "alice")
    assert hub.asked.count((SECRET, None, "alice")) == 1
    hub.now = PRIVATE
    await catalogue.look_up(SECRET, None, "alice")
    assert hub.asked.count((SECRET, None, "alice")) == 2


async def test_for_that_minute_it_does_not_matter_what_the_hub_tells_everybody(hub, catalogue):
    await catalogue.look_up(SECRET, None, "alice")
    hub.now, hub.down = PRIVATE - 0.1, True
    assert (await catalogue.look_up(SECRET, None, "alice")).private
    for token in (None, "bob"):
        with pytest.raises(HubUnavailable):
            await catalogue.look_up(SECRET, None, token)
    assert (SECRET, None, "bob") not in hub.asked  # who would wait twice for a Hub that hangs


async def test_what_is_private_is_not_for_everybody_though_this_process_may_see_it(hub, catalogue):
    hub.open_to_all = True
    with pytest.raises(RepoNotFound):
        await catalogue.look_up(SECRET, None, None)
    assert (await catalogue.look_up(SECRET, None, "alice")).private


async def test_a_token_that_the_hub_does_not_know_hides_no_missing_repository(hub, catalogue):
    with pytest.raises(RepoNotFound, match="does not know the token"):
        await catalogue.look_up(RepoId("no/such"), None, "invented")


async def test_private_facts_have_no_stale_answer(hub, catalogue):
    await catalogue.look_up(SECRET, None, "alice")
    hub.now, hub.down = PRIVATE + 1, True
    with pytest.raises((HubUnavailable, RepoNotFound)):
        await catalogue.look_up(SECRET, None, "alice")


async def test_public_facts_survive_an_outage(hub, catalogue):
    await catalogue.look_up(PUBLIC, None, None)
    hub.now, hub.down = 301.0, True
    assert (await catalogue.look_up(PUBLIC, None, None)).repo == PUBLIC


async def test_a_disabled_repository_is_forbidden(hub, catalogue):
    hub.disabled = True
    with pytest.raises(RepoForbidden, match="disabled"):
        await catalogue.look_up(PUBLIC, None, None)


async def test_a_moved_id_is_looked_up_under_its_new_name(hub, catalogue):
    with pytest.raises(RepoNotFound):
        await catalogue.look_up(RepoId("runwayml/stable-diffusion-v1-5"), None, None)
    assert hub.asked[0][0] == "stable-diffusion-v1-5/stable-diffusion-v1-5"


async def test_a_file_is_opened_by_the_caller_s_own_token_alone(hub, catalogue):
    secret = an_adapter(repo=SECRET)
    await catalogue.authorise(secret, "alice")
    await catalogue.authorise(secret, "alice")
    for token in (None, "bob"):
        with pytest.raises(RepoForbidden):
            await catalogue.authorise(secret, token)

    assert [token for *_, token in hub.checked] == ["alice", "bob"]


async def test_permission_ends_within_a_minute_and_is_never_stale(hub, catalogue):
    secret = an_adapter(repo=SECRET)
    await catalogue.authorise(secret, "alice")
    hub.now, hub.down = PRIVATE, True
    with pytest.raises(HubUnavailable):
        await catalogue.authorise(secret, "alice")


async def test_no_token_is_shown_in_a_text(catalogue):
    await catalogue.look_up(SECRET, None, "alice")

    assert "alice'" not in repr(catalogue._private._entries)


@pytest.mark.parametrize("repo", [PUBLIC, SECRET])
async def test_of_very_many_files_only_some_that_tell_something_are_remembered(catalogue, repo):
    found = await catalogue.look_up(repo, None, "alice")

    assert found.files == MANY_FILES[:MAX_FILES]


async def test_of_very_long_paths_fewer_are_remembered(hub, catalogue, monkeypatch):
    long = tuple(f"{number}-{'x' * 500}.safetensors" for number in range(100))
    monkeypatch.setattr(sys.modules[__name__], "MANY_FILES", long)
    files = (await catalogue.look_up(PUBLIC, None, None)).files
    assert FILES_CHARACTERS - 600 < sum(map(len, files)) <= FILES_CHARACTERS
