"""Words of configs that were renamed: the old one, or the old `key=value` or dotted name, and its successor."""

RENAMES = {
    # Files
    "defaults": "extends: (a file of the same group) and choose: (files of other groups)",
    "data=graph": "data=folder with modality=graph",
    # Keys
    "answer": 'visible_rows ("latent" or "mask_token")',
    "at": "queries",
    "beside": "compare_to",
    "filler": "baseline",
    "hide": "masking (drop, replace or leak)",
    "undecayed": "no_weight_decay",
    "views": "decodings",
    # Parts
    "core.composition": "core.config",
    "core.build": "core.config.build",
    "core.decoders.LightDecoder": "core.decoders.MAEDecoder",
    "core.engine.settings.Clock": "core.engine.clock.Clock",
    "core.engine.settings.Engine": "core.settings.Engine",
    "core.engine.settings.Plan": "core.settings.Plan",
    "core.targets.Taught": "core.targets.TeacherFeatures",
    "core.teachers.Averaged": "core.teachers.EMATeacher",
    "core.teachers.Follower": "core.teachers.MovingTeacher",
    "modalities.image.unet.LightUnet": "modalities.image.methods.spark.SparKDecoder",
}
