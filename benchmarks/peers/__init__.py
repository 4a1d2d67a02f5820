"""The same networks in other frameworks, as their documentation trains; each module needs its framework."""
