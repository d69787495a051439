# What a workload may do: sign with its own key, have a certificate issued for its own name, and look
# after its own token. NAME stands for what the login says of the caller, such as
# {{identity.entity.aliases.ACCESSOR.metadata.role_name}}; `sealwire vault setup` writes it out.

# Its own key, and nobody else's.
path "TRANSIT/sign/NAME/*" {
  capabilities = ["update"]
}
path "TRANSIT/keys/NAME" {
  capabilities = ["read"]
}

# A certificate. Which name it may carry is bound by the role (allowed_uri_sans).
path "PKI/sign/sealwire" {
  capabilities = ["update"]
}

# The mesh's issuers, which are the trust bundle.
path "PKI/issuers" {
  capabilities = ["list"]
}
path "PKI/issuer/+/json" {
  capabilities = ["read"]
}

# Its own token.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
