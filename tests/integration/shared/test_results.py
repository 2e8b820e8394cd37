"""What every store of images promises: in Redis, in a cluster, in files."""

import asyncio
import hashlib

import pytest

from shared.errors import ResultGone
from shared.redis_client import command_client
from shared.refs import RepoId
from shared.results.file_store import FileResults
from shared.results.opening import open_results
from shared.results.redis_store import RedisResults
from shared.results.store import ImageTooLarge, is_name, source_name
from tests.builders import BASE, a_job, a_lease
from tests.servers import Servers

IMAGE = bytes(range(256)) * 100
DIGEST = hashlib.sha256(IMAGE).hexdigest()
ROOM_FOR_THREE = 3 * len(IMAGE)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    servers = Servers(tmp_path_factory.mktemp("cluster"))
    yield f"redis+cluster://127.0.0.1:{servers.start_cluster().port}"
    servers.kill_all()


@pytest.fixture(params=["redis", "cluster", "files"])
def url(request, tmp_path):
    if request.param == "files":
        return f"file://{tmp_path}/of%20results"
    return request.getfixturevalue("redis_url" if request.param == "redis" else "cluster")


@pytest.fixture
def opened(url):
    def make(ttl=60, most_bytes=ROOM_FOR_THREE):
        return open_results(url, ttl=ttl, most_bytes=most_bytes)

    return make


@pytest.fixture
async def results(opened):
    async with opened() as results:
        yield results


async def kept(results, names):
    found = []
    for name in names:
        try:
            found.append(await results.get(name))
        except ResultGone:
            found.append(None)
    return found


async def test_an_image_comes_back_as_it_was(results):
    assert await results.get(await results.put(a_lease(), IMAGE)) == IMAGE


async def test_another_process_finds_it(results, opened):
    name = await results.put(a_lease(), IMAGE)
    async with opened() as reader:
        assert await reader.get(name) == IMAGE


async def test_each_attempt_writes_under_a_name_of_its_own(results):
    first = a_lease()
    second = a_lease(job=first.job, fence=first.fence + 1)
    names = await results.put(first, b"first"), await results.put(second, b"second")
    assert await kept(results, names) == [b"first", b"second"]
    assert all(is_name(name) for name in names)


async def test_writing_again_is_writing_once(results):
    leases = [a_lease() for _ in range(3)]
    names = [await results.put(lease, IMAGE) for lease in leases for _ in range(3)]
    assert len(set(names)) == 3
    assert await kept(results, names) == [IMAGE] * 9


async def test_the_oldest_images_make_room(results):
    names = [await results.put(a_lease(), IMAGE) for _ in range(5)]
    assert await kept(results, names) == [None, None, IMAGE, IMAGE, IMAGE]
    large = await results.put(a_lease(), IMAGE * 3)
    assert await kept(results, [*names, large]) == [None] * 5 + [IMAGE * 3]


async def test_a_cap_that_was_lowered_holds_from_the_next_image_on(results, opened):
    names = [await results.put(a_lease(), IMAGE) for _ in range(3)]
    async with opened(most_bytes=len(IMAGE)) as smaller:
        names.append(await smaller.put(a_lease(), IMAGE))
    assert await kept(results, names) == [None, None, None, IMAGE]


async def test_one_that_is_larger_than_all_may_be_is_refused_for_good(results):
    name = await results.put(a_lease(), IMAGE)
    with pytest.raises(ImageTooLarge, match=f"{ROOM_FOR_THREE + 1} bytes.*WARMBASE_RESULTS_BYTES") as caught:
        await results.put(a_lease(), b"x" * (ROOM_FOR_THREE + 1))
    assert not caught.value.retryable
    assert await results.get(name) == IMAGE


async def test_bases_share_the_room_except_in_a_cluster(results, url):
    bases = [RepoId(f"a/base-{number}") for number in range(4)]
    names = [await results.put(a_lease(job=a_job(base=base)), IMAGE) for base in bases]
    first = IMAGE if "cluster" in url else None
    assert await kept(results, names) == [first, IMAGE, IMAGE, IMAGE]


async def test_a_picture_that_a_job_starts_from_is_kept_beside_its_images(results, opened):
    for _ in range(5):
        await results.put_source(BASE, DIGEST, IMAGE, 30.0)
    name = await results.put(a_lease(), b"drawn")
    async with opened() as reader:
        assert await kept(reader, [source_name(BASE, DIGEST), name]) == [IMAGE, b"drawn"]
    assert is_name(source_name(BASE, DIGEST))


async def test_it_counts_as_images_do(results):
    digests = [hashlib.sha256(bytes([number])).hexdigest() for number in range(4)]
    for digest in digests:
        await results.put_source(BASE, digest, IMAGE, 30.0)
    names = [source_name(BASE, digest) for digest in digests]
    assert await kept(results, names) == [None, IMAGE, IMAGE, IMAGE]
    with pytest.raises(ImageTooLarge):
        await results.put_source(BASE, DIGEST, IMAGE * 4, 30.0)


async def test_it_is_kept_for_longer_than_images_if_its_job_may_wait_for_longer(opened):
    async with opened(ttl=1) as results:
        await results.put_source(BASE, DIGEST, IMAGE, 60.0)
        names = [source_name(BASE, DIGEST), await results.put(a_lease(), IMAGE)]
        await asyncio.sleep(1.5)
        assert await kept(results, names) == [IMAGE, None]
        names.append(await results.put(a_lease(), IMAGE * 2))
        assert await kept(results, names) == [IMAGE, None, IMAGE * 2]
        names.append(await results.put(a_lease(), IMAGE))  # it is counted still, as are all after it
        assert len([image for image in await kept(results, names) if image]) < 3


async def test_who_wants_it_for_a_shorter_time_takes_nothing_from_who_wants_it_for_longer(opened):
    async with opened(ttl=1) as results:
        for seconds in (60.0, 0.5):
            await results.put_source(BASE, DIGEST, IMAGE, seconds)
        await asyncio.sleep(1.5)
        names = [await results.put(a_lease(), IMAGE * 2)]  # what is over goes now
        assert await kept(results, [source_name(BASE, DIGEST), *names]) == [IMAGE, IMAGE * 2]
        names.append(await results.put(a_lease(), IMAGE))  # it is counted still, as are all after it
        found = await kept(results, [source_name(BASE, DIGEST), *names])
        assert len([image for image in found if image]) < 3


async def test_who_wants_it_for_longer_gets_that(opened):
    async with opened(ttl=1) as results:
        for seconds in (0.5, 60.0):
            await results.put_source(BASE, DIGEST, IMAGE, seconds)
        await asyncio.sleep(1.5)
        assert await results.get(source_name(BASE, DIGEST)) == IMAGE


@pytest.mark.parametrize("name", ["", "x", "../../etc/passwd", ".lock", "0123456789abcdef-1", "a\0b"])
async def test_no_other_name_is_an_image(results, name):
    await results.put(a_lease(), IMAGE)
    with pytest.raises(ResultGone):
        await results.get(name)


async def test_the_url_chooses_the_store(results, url):
    assert isinstance(results, FileResults if url.startswith("file") else RedisResults)


async def test_a_client_of_one_node_of_a_cluster_counts_by_base_as_well(cluster):
    async with command_client(cluster.replace("+cluster", "")) as redis:
        results = RedisResults(redis, ttl=60, most_bytes=len(IMAGE))
        bases = [RepoId(f"b/base-{number}") for number in range(4)]
        names = [await results.put(a_lease(job=a_job(base=base)), IMAGE) for base in bases]
        assert await kept(results, names) == [IMAGE] * 4
