"""A confusion matrix as HTML."""

import re

import numpy as np

from jaxcnn.inspect.confusion import confusion_table


def test_few_classes_have_their_numbers_and_names_which_are_escaped():
    table = confusion_table(np.array([[3, 1], [0, 4]]), ["<script>", "b&w"])
    assert re.findall(r"<th[^>]*>(.*?)</th>", table) == ["", "&lt;script&gt;", "b&amp;w", "&lt;script&gt;", "b&amp;w"]
    assert re.findall(r"<td[^>]*>(.*?)</td>", table) == ["3", "1", "", "4"]


def test_of_many_classes_the_most_frequent_confusions_are_named():
    confusion = 5 * np.eye(100, dtype=int)
    confusion[7, 9], confusion[20, 3] = 3, 4
    table = confusion_table(confusion, [f"<{i}>" for i in range(100)])
    named = re.findall(r"<tr><td>&lt;(\d+)&gt;</td><td>&lt;(\d+)&gt;</td><td class=\"n\">(\d+)</td></tr>", table)
    assert named == [("20", "3", "4"), ("7", "9", "3")]
    assert 'title="4 of &lt;20&gt; taken for &lt;3&gt;"' in table
    assert len(table) < 100_000


def test_a_class_without_images_has_no_shade():
    assert "nan" not in confusion_table(np.zeros((2, 2), int), ["a", "b"])
