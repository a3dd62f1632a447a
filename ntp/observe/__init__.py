"""Why a step takes as long as it does. Each observer looks at steps of its own, never at timed ones."""
