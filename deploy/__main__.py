"""`python -m deploy` is the `warmbase` command."""

from deploy.cli import main

raise SystemExit(main())
