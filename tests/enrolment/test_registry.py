"""Names and addresses are unique, snapshots do not change, and look-ups say who might be meant."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interceptor.enrolment.registry import RESERVED_NAMES, Registry
from interceptor.errors import EnrolmentError
from interceptor.identity.spiffe_id import SpiffeId
from interceptor.workload import Workload, WorkloadKey


def workload(key: str, *addresses: str) -> Workload:
    namespace, name = key.split("/")
    identity = SpiffeId.parse(f"spiffe://cluster.local/ns/{namespace}/sa/{name}")
    return Workload(WorkloadKey(namespace, name), identity, tuple(map(ip_address, addresses)), "node-1")


def registry_of(*workloads: Workload) -> Registry:
    registry = Registry.empty()
    for one in workloads:
        registry = registry.with_workload(one)
    return registry


WEB = workload("shop/web", "10.0.0.1", "fd00::1", "fe80::1")
DATABASE = workload("shop/database", "10.0.0.2", "fe80::1")
OTHER_WEB = workload("bank/web", "10.0.0.3", "fe80::3")
REGISTRY = registry_of(WEB, DATABASE, OTHER_WEB)


def test_registry_empty_has_nothing() -> None:
    empty = Registry.empty()
    assert len(empty) == 0
    assert empty.workloads == ()
    assert empty.get(WEB.key) is None
    assert WEB.key not in empty


def test_registry_workloads_are_sorted_by_key() -> None:
    assert REGISTRY.workloads == (OTHER_WEB, DATABASE, WEB)
    assert len(REGISTRY) == 3


def test_registry_get_finds_by_key() -> None:
    assert REGISTRY.get(WorkloadKey("shop", "web")) is WEB
    assert WEB.key in REGISTRY


@pytest.mark.parametrize(
    ("address", "holder"),
    [
        ("10.0.0.1", WEB),
        ("fd00::1", WEB),
        ("::ffff:10.0.0.2", DATABASE),
        ("10.0.0.9", None),
        ("fe80::3", OTHER_WEB),  # link-local, and only one has it
        ("fe80::1", None),  # two have it
        ("fe80::9", None),
    ],
)
def test_registry_by_address_finds_the_holder(address: str, holder: Workload | None) -> None:
    assert REGISTRY.by_address(ip_address(address)) is holder


def test_registry_change_leaves_the_snapshot_as_it_was() -> None:
    smaller = REGISTRY.without(WEB.key)
    assert smaller.by_address(ip_address("10.0.0.1")) is None
    assert smaller.get(WEB.key) is None
    assert REGISTRY.by_address(ip_address("10.0.0.1")) is WEB


def test_registry_name_taken_is_refused() -> None:
    with pytest.raises(EnrolmentError, match="shop/web is enrolled already"):
        REGISTRY.with_workload(workload("shop/web", "10.0.0.9"))


@pytest.mark.parametrize("address", ["10.0.0.2", "::ffff:10.0.0.2"])
def test_registry_address_taken_is_refused(address: str) -> None:
    with pytest.raises(EnrolmentError, match=r"10\.0\.0\.2 belongs to shop/database"):
        REGISTRY.with_workload(workload("shop/cache", address))


def test_registry_address_given_twice_by_one_workload_is_taken_once() -> None:
    twice = workload("shop/cache", "10.0.0.9", "10.0.0.9")
    assert registry_of(twice).by_address(ip_address("10.0.0.9")) is twice


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_registry_name_of_the_host_itself_is_refused(name: str) -> None:
    with pytest.raises(EnrolmentError, match="means the host itself"):
        Registry.empty().with_workload(workload(f"shop/{name}", "10.0.0.9"))


def test_registry_without_unknown_is_refused() -> None:
    with pytest.raises(EnrolmentError, match="shop/cache is not enrolled"):
        REGISTRY.without(WorkloadKey("shop", "cache"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("database", DATABASE),
        ("shop/web", WEB),
        ("bank/web", OTHER_WEB),
        ("10.0.0.3", OTHER_WEB),
        ("::ffff:10.0.0.3", OTHER_WEB),
        ("fd00::1", WEB),
        ("fe80::3", OTHER_WEB),
    ],
)
def test_find_unambiguous_text_gives_the_workload(text: str, found: Workload) -> None:
    assert REGISTRY.find(text) is found


@pytest.mark.parametrize(
    ("text", "candidates"), [("web", "bank/web, shop/web"), ("fe80::1", "shop/database, shop/web")]
)
def test_find_ambiguous_text_lists_the_candidates(text: str, candidates: str) -> None:
    with pytest.raises(EnrolmentError, match=f"may mean {candidates}, give namespace/name"):
        REGISTRY.find(text)


@pytest.mark.parametrize("text", ["cache", "shop/cache", "10.0.0.9", "", "a/b/c", "web\n"])
def test_find_unknown_text_lists_the_enrolled(text: str) -> None:
    with pytest.raises(EnrolmentError, match="enrolled are bank/web, shop/database, shop/web") as caught:
        REGISTRY.find(text)
    assert "\n" not in str(caught.value)


def test_find_in_empty_registry_says_so() -> None:
    with pytest.raises(EnrolmentError, match="none is enrolled"):
        Registry.empty().find("web")


def test_find_in_large_registry_lists_only_some() -> None:
    registry = registry_of(*(workload(f"shop/w{number}", f"10.0.0.{number}") for number in range(1, 8)))
    with pytest.raises(EnrolmentError, match=r"shop/w5 and 2 more$"):
        registry.find("cache")


def test_hosts_file_names_own_namespace_short_and_others_qualified() -> None:
    assert REGISTRY.hosts_file("shop", "127.0.0.1 localhost\n::1 localhost") == (
        "127.0.0.1 localhost\n"
        "::1 localhost\n"
        "10.0.0.3 web.bank\n"
        "10.0.0.2 database database.shop\n"
        "10.0.0.1 web web.shop\n"
        "fd00::1 web web.shop\n"
    )


def test_hosts_file_leaves_out_names_that_would_look_like_those_of_another_namespace() -> None:
    registry = registry_of(workload("shop/web.bank", "10.0.0.9"), OTHER_WEB)
    assert registry.hosts_file("shop", "") == "10.0.0.3 web.bank\n"


def test_hosts_file_of_empty_registry_is_the_header() -> None:
    assert Registry.empty().hosts_file("shop", "# header\n") == "# header\n"


numbers = st.integers(1, 6)


@given(st.lists(st.tuples(st.booleans(), numbers, st.lists(numbers, max_size=3))))
def test_registry_after_any_changes_has_one_holder_for_each_address(
    changes: list[tuple[bool, int, list[int]]],
) -> None:
    registry = Registry.empty()
    for add, number, addresses in changes:
        one = workload(f"shop/w{number}", *(f"10.0.0.{address}" for address in addresses))
        try:
            registry = registry.with_workload(one) if add else registry.without(one.key)
        except EnrolmentError:
            continue
    for one in registry.workloads:
        assert registry.get(one.key) is one
        for address in one.addresses:
            assert registry.by_address(address) is one
    held = {address for one in registry.workloads for address in one.addresses}
    for number in range(1, 7):
        address = ip_address(f"10.0.0.{number}")
        assert (registry.by_address(address) is not None) == (address in held)


# Other nodes' workloads.

REMOTE = workload("shop/api", "10.0.9.1", "fd00:9::1")


def test_remote_workload_is_found_like_any_other_and_is_not_our_own() -> None:
    registry = REGISTRY.with_remote([REMOTE])
    assert registry.get(REMOTE.key) == REMOTE
    assert registry.by_address(REMOTE.addresses[1]) == REMOTE
    assert registry.find("api") == registry.find("shop/api") == registry.find("10.0.9.1") == REMOTE
    assert REMOTE.key in registry
    assert len(registry) == 4
    assert registry.workloads == (OTHER_WEB, REMOTE, DATABASE, WEB)
    assert registry.own == (OTHER_WEB, DATABASE, WEB)
    assert registry.is_remote(REMOTE.addresses[0])
    assert not registry.is_remote(WEB.addresses[0])
    assert "10.0.9.1 api api.shop\n" in registry.hosts_file("shop", "")


def test_remote_workloads_stay_when_our_own_change_and_are_replaced_all_together() -> None:
    registry = Registry.empty().with_remote([REMOTE]).with_workload(WEB)
    assert registry.workloads == (REMOTE, WEB)
    assert registry.without(WEB.key).workloads == (REMOTE,)
    other = workload("shop/other", "10.0.9.2")
    assert registry.with_remote([other]).workloads == (other, WEB)
    assert registry.with_remote([]) == registry_of(WEB)


def test_remote_workload_with_our_workloads_address_does_not_get_it() -> None:
    thief = workload("shop/thief", "10.0.0.1", "10.0.9.3")
    registry = REGISTRY.with_remote([thief])
    assert registry.by_address(ip_address("10.0.0.1")) is WEB
    assert not registry.is_remote(ip_address("10.0.0.1"))
    seen = registry.get(thief.key)
    assert seen is not None
    assert seen.addresses == (ip_address("10.0.9.3"),)
    assert registry.without(WEB.key).by_address(ip_address("10.0.0.1")) == thief


def test_remote_workload_of_which_no_address_is_left_is_not_seen() -> None:
    registry = REGISTRY.with_remote([workload("shop/thief", "10.0.0.1", "fe80::9")])
    assert registry == REGISTRY.with_remote([workload("shop/thief", "10.0.0.1", "fe80::9")])
    assert registry.workloads == REGISTRY.workloads
    assert registry.by_address(ip_address("fe80::9")) is None


def test_remote_workload_with_our_workloads_name_is_reached_by_address_only() -> None:
    namesake = workload("shop/web", "10.0.9.4")
    registry = REGISTRY.with_remote([namesake])
    assert registry.get(WEB.key) is WEB
    assert registry.by_address(ip_address("10.0.9.4")) == namesake
    assert "10.0.9.4" not in registry.hosts_file("shop", "")


@pytest.mark.parametrize("name", sorted(RESERVED_NAMES))
def test_remote_workload_with_a_reserved_name_is_in_no_hosts_file(name: str) -> None:
    registry = REGISTRY.with_remote([workload(f"shop/{name}", "10.0.9.5")])
    assert "10.0.9.5" not in registry.hosts_file("shop", "")
    assert registry.by_address(ip_address("10.0.9.5")) is not None


def test_of_two_remote_workloads_with_one_address_or_name_the_first_has_it() -> None:
    first, second = workload("shop/a", "10.0.9.6"), workload("shop/b", "10.0.9.6", "10.0.9.7")
    again = workload("shop/a", "10.0.9.8")
    registry = Registry.empty().with_remote([first, second, again])
    assert registry.by_address(ip_address("10.0.9.6")) == first
    assert registry.by_address(ip_address("10.0.9.7")) == second
    assert registry.get(first.key) == first


def test_our_own_workload_takes_its_address_from_a_remote_one() -> None:
    registry = Registry.empty().with_remote([workload("shop/thief", "10.0.0.1")]).with_workload(WEB)
    assert registry.by_address(ip_address("10.0.0.1")) is WEB
    assert registry.workloads == (WEB,)
