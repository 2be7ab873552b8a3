"""Names of the 1000 ImageNet classes."""

from typing import Dict, List


def class_names(synsets: List[str], lemmas: Dict[str, str]) -> List[str]:
    """The first WordNet name of each class. Two classes can share it (crane, the bird and the machine): the later one then has its number too."""
    names: List[str] = []
    for index, synset in enumerate(synsets):
        name = lemmas[synset].split(",")[0].strip()
        names.append(f"{name} {index}" if name in names else name)
    return names
