import pytest

from shared.errors import ResultGone
from shared.refs import base_tag
from shared.results import ResultStore
from tests.builders import BASE, a_lease

IMAGE = bytes(range(256)) * 100


@pytest.fixture
def results(redis):
    return ResultStore(redis, base_tag(BASE), ttl=60)


async def test_an_image_comes_back_as_it_was(results):
    assert await results.get(await results.put(a_lease(), IMAGE)) == IMAGE


async def test_each_attempt_writes_under_a_name_of_its_own(results):
    first = a_lease()
    second = a_lease(job=first.job, fence=first.fence + 1)
    names = await results.put(first, b"first"), await results.put(second, b"second")
    assert [await results.get(name) for name in names] == [b"first", b"second"]


async def test_writing_twice_is_writing_once(results):
    lease = a_lease()
    assert await results.put(lease, IMAGE) == await results.put(lease, IMAGE)


async def test_an_image_expires(results, redis, keys):
    name = await results.put(a_lease(), IMAGE)
    assert 50 < await redis.ttl(keys.blob(name)) <= 60


async def test_one_that_has_expired_is_said_to_be_gone(results, redis, keys):
    name = await results.put(a_lease(), IMAGE)
    await redis.delete(keys.blob(name))
    with pytest.raises(ResultGone):
        await results.get(name)


async def test_bases_keep_their_images_apart(results, redis):
    name = await results.put(a_lease(), IMAGE)
    with pytest.raises(ResultGone):
        await ResultStore(redis, base_tag("another/base"), ttl=60).get(name)
