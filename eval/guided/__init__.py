"""Search that a PRM guides while the policy writes: methods (pure), the PRM that grows with the text, the accounts."""
