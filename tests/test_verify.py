"""Verification: a sound store is proven, beside live work and in bounded memory."""

from lives import NewEnvironment, live

from turnkeeper import Store, verify


async def test_a_rich_life_is_sound(store: Store, new_environment: NewEnvironment) -> None:
    """All kinds, failures, operations, a crash and a restart leave nothing to object to. [VER-1]"""
    await live(store, new_environment)
    report = await verify(store)
    assert [str(finding) for finding in report.findings] == []
    assert report.is_sound
    assert report.checked.inputs > 20
