"""The table of a network: what it counts."""

from jaxcnn import (
    Conv2d,
    Dense,
    Flatten,
    MaxPool2d,
    ReLU,
    Sequential,
    Sigmoid,
    summary,
)


def test_residual_bytes_count_what_is_kept_once():
    """relu keeps its output, which the pooling shares with nobody; the dense layer keeps its input."""
    rows = summary(Sequential((Conv2d(4, 3), ReLU(), MaxPool2d(2), Flatten(), Dense(3))), (8, 8, 1), batch_size=5).rows
    kept = {row.name: row.residual_bytes for row in rows}
    assert kept == {"conv1": 0, "relu1": 5 * 6 * 6 * 4 * 4, "maxpool1": 5 * 36, "flatten1": 0, "dense1": 5 * 36 * 4}
    rows = summary(Sequential((Dense(4), Sigmoid(), Dense(3), Sigmoid())), (6,), batch_size=2).rows
    assert [row.residual_bytes for row in rows] == [0, 2 * 4 * 4, 0, 2 * 3 * 4]


def test_a_single_layer_has_a_summary():
    assert summary(Dense(3), (4,)).total.parameters == 15
