import pytest

from dcgan_dist.data.subset import labels_of, names_in


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("  ", ()),
        ("rose", ("rose",)),
        ("rose, lily of the valley ,iris", ("rose", "lily of the valley", "iris")),
        ('"lily, white",rose', ("lily, white", "rose")),
        ("colt's foot,17/daffodil", ("colt's foot", "17/daffodil")),
    ],
)
def test_names_in_a_list(text: str, names: tuple[str, ...]) -> None:
    assert names_in(text) == names


def test_labels_rise_whatever_the_order_of_the_names() -> None:
    assert labels_of(["c", "a"], ["a", "b", "c"], what="--classes") == [0, 2]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["rise"], "--classes: must be names of classes, got 'rise'; did you mean 'rose'?"),
        (["x"], "--classes: must be names of classes, got 'x'; there are rose, iris"),
        ([""], "--classes: must be names of classes, got ''; there are rose, iris"),
        (["rose", "rose"], "--classes: 'rose' is there twice"),
    ],
)
def test_mistakes_name_the_class(wanted: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        labels_of(wanted, ["rose", "iris"], what="--classes")
    assert str(caught.value) == message


def test_of_many_classes_some_are_shown() -> None:
    with pytest.raises(ValueError, match=r"there are 10, 11, .*, 21 and 78 more$"):
        labels_of(["x"], [str(n) for n in range(10, 100)], what="classes")
