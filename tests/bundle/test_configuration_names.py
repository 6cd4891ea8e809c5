"""Names that a bundle's configuration may use."""

import importlib
import pkgutil

from monai.bundle.config_item import ComponentLocator

import monai_ifim


def test_no_name_of_ours_hides_one_of_monai():
    """MONAI looks up ``_target_`` by bare name in every package whose name begins with monai."""
    for module in pkgutil.walk_packages(monai_ifim.__path__, "monai_ifim."):
        # What needs MONAI Label or the Deploy SDK is imported in environments of their own.
        hosts = (".label", ".deploy")
        if not any(host in module.name for host in hosts) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    locator = ComponentLocator()
    locator.get_component_module_name("Compose")
    shared = {
        name: places
        for name, places in locator._components_table.items()
        if len({place.split(".")[0] for place in places}) > 1
    }
    assert shared == {}
