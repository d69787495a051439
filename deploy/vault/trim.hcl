# Lets a workload put an end to the old versions of its own key (`key.vaultTransit.trim`), and change
# nothing else about it: neither whether it can be exported nor whether it can be deleted.
path "TRANSIT/keys/NAME/config" {
  capabilities = ["update"]
  allowed_parameters = {
    "min_encryption_version" = []
    "min_decryption_version" = []
  }
}
