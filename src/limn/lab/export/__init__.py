"""A site's series and structure sets without the identities in them, for others to use."""
