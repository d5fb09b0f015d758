"""Whether the tunnel's port is open already to certain peers of certain pods, by any rule of any policy.

Selectors are compared as they are written, so "no" may be wrong where two say the same in different words.
"""

from collections.abc import Iterable

from interceptor.network_policy.model import BlockPeer, NetworkPolicy, Peer, PodPeer, Rule, Side, is_inside
from interceptor.workload import IPNetwork


def is_opened(
    policy: NetworkPolicy, side: Side, peers: tuple[Peer, ...], siblings: Iterable[NetworkPolicy]
) -> bool:
    """Whether each of the peers (none: everybody) is let through to 15008, for all pods that `policy` selects.

    `siblings` are the policies of its namespace. A connection passes if one rule of any policy lets it.
    """
    open_rules = [
        rule
        for sibling in siblings
        if sibling.pods.includes(policy.pods)
        for rule in sibling.rules(side)
        if rule.lets_tunnel_through
    ]
    if not peers:
        return any(not rule.peers for rule in open_rules)
    return all(any(_takes(rule, peer) for rule in open_rules) for peer in peers)


def _takes(rule: Rule, peer: Peer) -> bool:
    return not rule.peers or any(_includes(each, peer) for each in rule.peers)


def _includes(outer: Peer, inner: Peer) -> bool:
    if isinstance(outer, BlockPeer):
        return isinstance(inner, BlockPeer) and _includes_block(outer, inner)
    return (
        isinstance(inner, PodPeer) and outer.pods.includes(inner.pods) and _includes_namespaces(outer, inner)
    )


def _includes_block(outer: BlockPeer, inner: BlockPeer) -> bool:
    if not is_inside(inner.network, outer.network):
        return False
    # What the outer one leaves out must be left out by the inner one, or outside of it.
    return not any(
        _touch(each, inner) and not any(is_inside(each, hole) for hole in inner.excepted)
        for each in outer.excepted
    )


def _touch(network: IPNetwork, block: BlockPeer) -> bool:
    return bool(block.within((network,)))


def _includes_namespaces(outer: PodPeer, inner: PodPeer) -> bool:
    if outer.namespaces is None:
        return inner.namespaces is None
    if inner.namespaces is None:
        return not outer.namespaces.requirements  # all namespaces: the policy's own too
    return outer.namespaces.includes(inner.namespaces)
