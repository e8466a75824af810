"""Write the parts of the Helm chart that follow from the code: `python -m rft_charts.generate ROOT`."""

from __future__ import annotations

import sys
from pathlib import Path

from rft_api.generate import write_files
from rft_charts.dashboards import build_dashboards
from rft_charts.objects import crd_templates, permissions_template
from rft_charts.policies import policies_template
from rft_charts.values_page import render_page

CHART = "charts/rft-operator"


def generated_files(root: Path) -> dict[str, str]:
    """Return the contents of all generated files, by their paths in the repository."""
    files = {f"{CHART}/templates/crds/{name}": template for name, template in crd_templates().items()}
    files[f"{CHART}/templates/_permissions.tpl"] = permissions_template()
    files[f"{CHART}/templates/admissionpolicies.yaml"] = policies_template()
    files |= {f"{CHART}/files/dashboards/{name}.json": text for name, text in build_dashboards().items()}
    values = (root / CHART / "values.yaml").read_text(encoding="utf-8")
    files[f"{CHART}/README.md"] = render_page(values)
    return files


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    write_files(folder, generated_files(folder))
