"""What an attacker finds out in practice: lower bounds of epsilon, and membership inference, for any trained Keras model.

The accountant proves that epsilon is at most so much; an audit measures that it is at least so much. A lower bound above the claim is
proof of a bug. Start with `audits.py`.
"""

from privacy.audit.audits import OneRunAudit, audit_training, one_run
from privacy.audit.bounds import epsilon_bound, p_value
from privacy.audit.canaries import Canaries
from privacy.audit.scores import loss_scores, update_scores
from privacy.audit.threshold import MembershipAttack, membership

__all__ = [
    "Canaries",
    "MembershipAttack",
    "OneRunAudit",
    "audit_training",
    "epsilon_bound",
    "loss_scores",
    "membership",
    "one_run",
    "p_value",
    "update_scores",
]
