"""Pictures of results. Each function draws into `ax`, or into a figure of its own, and returns it.

Nothing here changes Matplotlib's settings but inside a `with style():` block, and nothing shows or
saves a figure by itself.
"""

from .audits import plot_audit as plot_audit
from .audits import plot_audit_agents as plot_audit_agents
from .audits import plot_audit_errors as plot_audit_errors
from .curves import plot_bounds as plot_bounds
from .curves import plot_brackets as plot_brackets
from .curves import plot_front as plot_front
from .curves import plot_indices as plot_indices
from .curves import plot_over_agents as plot_over_agents
from .looks import BLUE as BLUE
from .looks import GRAY as GRAY
from .looks import GREEN as GREEN
from .looks import RED as RED
from .looks import as_svg as as_svg
from .looks import draw_floor as draw_floor
from .looks import draw_limit as draw_limit
from .looks import draw_points as draw_points
from .looks import set_logarithmic as set_logarithmic
from .looks import style as style
from .maps import plot_entanglement_map as plot_entanglement_map
from .maps import plot_error_by_pair as plot_error_by_pair
