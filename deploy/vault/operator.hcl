# What `sealwire vault setup --apply` needs, for a token that lives as long as the setup.
path "sys/mounts/TRANSIT" {
  capabilities = ["create", "read", "update", "sudo"]
}
path "sys/mounts/PKI" {
  capabilities = ["create", "read", "update", "sudo"]
}
path "sys/auth" {
  capabilities = ["read", "sudo"]
}
path "sys/auth/+" {
  capabilities = ["create", "read", "update", "sudo"]
}
path "sys/mounts" {
  capabilities = ["read"]
}
path "sys/policies/acl/sealwire-*" {
  capabilities = ["create", "read", "update"]
}
path "auth/+/role/*" {
  capabilities = ["create", "read", "update"]
}
path "auth/+/certs/sealwire" {
  capabilities = ["create", "read", "update"]
}
path "auth/+/config" {
  capabilities = ["create", "read", "update"]
}
path "TRANSIT/keys/*" {
  capabilities = ["create", "read", "update"]
}
path "PKI/issuers" {
  capabilities = ["list"]
}
path "PKI/root/generate/internal" {
  capabilities = ["update"]
}
path "PKI/roles/sealwire" {
  capabilities = ["create", "read", "update"]
}
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
